"""faster_rcnn_mobilenetv2_fpn_nuclei.py in the coordinates of sides, with the smooth L1 loss that KL-Loss starts as.

    export EBM_DATA_ROOT=/path/to/shared
    python tools/train.py configs/nuclei/faster_rcnn_mobilenetv2_fpn_nuclei_sides.py

Hardware: 2 CPU cores. It is KL-Loss with every variance fixed at 1: the detector that tells what the variances give
from what the other coordinates give.
"""

_base_ = ['./faster_rcnn_mobilenetv2_fpn_nuclei.py', '../_base_/kl_recipe.py']

model = dict(
    roi_head=dict(
        bbox_head=dict(
            bbox_coder=dict(_delete_=True, **_base_.kl.bbox_head.bbox_coder),
            loss_bbox=dict(_delete_=True, type='SmoothL1Loss', beta=1.0, loss_weight=1.0))))
