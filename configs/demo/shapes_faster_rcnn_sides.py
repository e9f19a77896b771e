"""shapes_faster_rcnn.py in the coordinates of sides, with the smooth L1 loss that KL-Loss starts as.

    python tools/train.py configs/demo/shapes_faster_rcnn_sides.py

Hardware: 2 CPU cores. KL-Loss with every variance fixed at 1.
"""

_base_ = ['./shapes_faster_rcnn.py', '../_base_/kl_recipe.py']

model = dict(
    roi_head=dict(
        bbox_head=dict(
            bbox_coder=dict(_delete_=True, **_base_.kl.bbox_head.bbox_coder),
            loss_bbox=dict(_delete_=True, type='SmoothL1Loss', beta=1.0, loss_weight=1.0))))
