"""Faster R-CNN R50-FPN trained with KL-Loss, on COCO; plain NMS.

    tools/dist_train.sh configs/kl_loss/faster_rcnn_r50_fpn_2x_coco_kl.py 8        # 8 GPUs x 2 images
    tools/dist_test.sh  configs/kl_loss/faster_rcnn_r50_fpn_2x_coco_kl.py CKPT 8 --eval bbox

Hardware: that of mmdet's Faster R-CNN. Data: COCO in data/coco, as mmdet lays it out. The loss may become negative;
docs/kl_loss.md says why, and what else to expect.

Expected: 38.5 AP against 37.9 without (published on val2017 with another code base; not trained with this one).
"""

_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py', '../_base_/kl_recipe.py']

custom_imports = dict(imports=['ebm_mmdet'], allow_failed_imports=False)

model = dict(roi_head=dict(bbox_head=_base_.kl.bbox_head))
val_evaluator = [
    dict(_base_.val_evaluator, type='HighIoUCocoMetric'),
    dict(type='ProbabilisticBoxMetric', ann_file=_base_.val_evaluator.ann_file)
]
test_evaluator = val_evaluator

_base_.merge(_base_.pop('kl').training)
