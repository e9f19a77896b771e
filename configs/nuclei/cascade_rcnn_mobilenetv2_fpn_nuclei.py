"""Cascade R-CNN on the small two-stage nuclei detector: what three box heads in a row give, and cost.

    python tools/train.py configs/nuclei/cascade_rcnn_mobilenetv2_fpn_nuclei.py

Hardware: 2 CPU cores. Backbone, neck, RPN, data and schedule are those of faster_rcnn_mobilenetv2_fpn_nuclei.py; the
stages are mmdet's. Compared with the others by configs/nuclei/kl_study.yaml.
"""

_base_ = ['./faster_rcnn_mobilenetv2_fpn_nuclei.py', '../_base_/cascade_recipe.py']

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
