"""KL-Loss proposes boxes and their variances, an energy head refines them, on the small nuclei detector.

    export EBM_DATA_ROOT=/path/to/shared
    python tools/train.py configs/nuclei/faster_rcnn_mobilenetv2_fpn_nuclei_kl.py      # first, the detector
    python tools/train.py configs/nuclei/faster_rcnn_mobilenetv2_fpn_nuclei_kl_nceplus.py

Hardware: 2 CPU cores.
"""

_base_ = ['./faster_rcnn_mobilenetv2_fpn_nuclei_nceplus.py', '../_base_/kl_recipe.py']

load_from = 'work_dirs/faster_rcnn_mobilenetv2_fpn_nuclei_kl/iter_300.pth'

model = dict(
    detector=dict(
        roi_head=dict(bbox_head=_base_.kl.bbox_head), test_cfg=dict(rcnn=dict(var_vote=_base_.kl.var_vote))),
    refiner=dict(_delete_=True, **_base_.kl.refiner),
    candidates=None)  # the detections after voting
visualizer = dict(**_base_.kl.visualizer)
