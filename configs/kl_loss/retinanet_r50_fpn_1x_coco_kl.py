"""RetinaNet R50-FPN trained with KL-Loss, on COCO, with variance voting: a one-stage detector.

    tools/dist_train.sh configs/kl_loss/retinanet_r50_fpn_1x_coco_kl.py 8        # 8 GPUs x 2 images
    tools/dist_test.sh  configs/kl_loss/retinanet_r50_fpn_1x_coco_kl.py CKPT 8 --eval bbox

Hardware: that of mmdet's RetinaNet. Data: COCO in data/coco, as mmdet lays it out.

Expected: not published and not trained here. Users of the paper's code report mixed results with one-stage detectors.
"""

_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/kl_recipe.py']

custom_imports = dict(imports=['ebm_mmdet'], allow_failed_imports=False)

model = dict(
    bbox_head=dict(
        type='KLRetinaHead',
        bbox_coder=_base_.kl.bbox_head.bbox_coder,
        # In these normalised coordinates, 0.1 times smooth L1 is smooth L1 with beta 0.1 of plain ones, about what
        # RetinaNet was published with (beta 0.11).
        loss_bbox=dict(_base_.kl.bbox_head.loss_bbox, loss_weight=0.1)),
    test_cfg=dict(var_vote=_base_.kl.var_vote))
val_evaluator = [
    dict(_base_.val_evaluator, type='HighIoUCocoMetric'),
    dict(type='ProbabilisticBoxMetric', ann_file=_base_.val_evaluator.ann_file)
]
test_evaluator = val_evaluator

_base_.merge(_base_.pop('kl').training)
