"""Cascade R-CNN on the two-stage detector of nuclei of U2OS cells: what three box heads in a row give, and cost.

    python tools/train.py configs/bbbc039/cascade_rcnn_mobilenetv2_fpn_bbbc039.py

Hardware: 2 CPU cores. Backbone, neck, RPN, data and schedule are those of faster_rcnn_mobilenetv2_fpn_bbbc039.py; the
stages are mmdet's. Expected: 80.8 AP, 64.2 AP90 (docs/results.md, section Two stages and a cascade).
"""

_base_ = ['./faster_rcnn_mobilenetv2_fpn_bbbc039.py', '../_base_/cascade_recipe.py']

model = dict(
    type='CascadeRCNN',
    roi_head=dict(
        _delete_=True,
        type='CascadeRoIHead',
        num_stages=3,
        stage_loss_weights=_base_.cascade.stage_loss_weights,
        bbox_roi_extractor=_base_.model.roi_head.bbox_roi_extractor,
        bbox_head=[
            dict(head, in_channels=64, fc_out_channels=256, num_classes=1) for head in _base_.cascade.bbox_heads
        ]),
    train_cfg=dict(
        rcnn=[dict(_base_.model.train_cfg.rcnn, assigner=assigner) for assigner in _base_.cascade.assigners]))
_base_.pop('cascade')
