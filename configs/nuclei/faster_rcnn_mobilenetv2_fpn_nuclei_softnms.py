"""As faster_rcnn_mobilenetv2_fpn_nuclei.py with soft-NMS instead of NMS; the training is the same.

    python tools/test.py configs/nuclei/faster_rcnn_mobilenetv2_fpn_nuclei_softnms.py CKPT

CKPT is work_dirs/faster_rcnn_mobilenetv2_fpn_nuclei/iter_300.pth. What soft-NMS gives without KL-Loss.
"""

_base_ = ['./faster_rcnn_mobilenetv2_fpn_nuclei.py', '../_base_/kl_recipe.py']

model = dict(test_cfg=dict(rcnn=dict(nms=dict(_delete_=True, **_base_.kl.soft_nms))))
