"""Cascade R-CNN on the small detector of shapes_faster_rcnn.py: what three box heads in a row give, and cost.

    python tools/train.py configs/demo/shapes_faster_rcnn_cascade.py

Hardware: 2 CPU cores. Everything but the stages, which are mmdet's, is that of the base.
"""

_base_ = ['./shapes_faster_rcnn.py', '../_base_/cascade_recipe.py']

model = dict(
    type='CascadeRCNN',
    roi_head=dict(
        _delete_=True,
        type='CascadeRoIHead',
        num_stages=3,
        stage_loss_weights=_base_.cascade.stage_loss_weights,
        bbox_roi_extractor=_base_.model.roi_head.bbox_roi_extractor,
        bbox_head=[
            dict(head, in_channels=48, fc_out_channels=256, num_classes=len(_base_.classes))
            for head in _base_.cascade.bbox_heads
        ]),
    train_cfg=dict(
        rcnn=[dict(_base_.model.train_cfg.rcnn, assigner=assigner) for assigner in _base_.cascade.assigners]))
_base_.pop('cascade')
