"""KL-Loss proposes boxes and their variances, an energy head refines them, on the small Faster R-CNN for shapes.

    python tools/train.py configs/demo/shapes_faster_rcnn_kl.py      # first, the detector
    python tools/train.py configs/demo/shapes_faster_rcnn_kl_nceplus.py

Hardware: 2 CPU cores. The variances of each box are the prior of its refinement.
"""

_base_ = ['./shapes_faster_rcnn_nceplus.py', '../_base_/kl_recipe.py']

load_from = f'work_dirs/shapes_faster_rcnn_kl/iter_{_base_.max_iters}.pth'

model = dict(
    detector=dict(
        roi_head=dict(bbox_head=_base_.kl.bbox_head), test_cfg=dict(rcnn=dict(var_vote=_base_.kl.var_vote))),
    refiner=dict(_delete_=True, **_base_.kl.refiner))
visualizer = dict(**_base_.kl.visualizer)
