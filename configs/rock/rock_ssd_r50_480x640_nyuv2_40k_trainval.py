"""ROCK on NYUv2 with a validation split: 673 images to train on, 122 of the official training images to choose by.

    tools/dist_train.sh configs/rock/rock_ssd_r50_480x640_nyuv2_40k_trainval.py 1        # 1 GPU x 8 images
    tools/dist_test.sh  configs/rock/rock_ssd_r50_480x640_nyuv2_40k_trainval.py CKPT 1 --eval bbox

Hardware: one GPU with 11 GB. Data: NYUv2 in data/nyuv2 with normals, by tools/dataset_converters/nyuv2.py.

Expected: published: 19.9 AP, 36.2 AP50 on the 122 validation images (README of the reference implementation, one run); the paper:
18.5 AP, 37.6 AP50. Not yet trained with this code. The best checkpoint on validation is kept as best_*.pth, which makes its
AP on these images optimistic.
"""

_base_ = ['./rock_ssd_r50_480x640_30k_nyuv2.py']

train_dataloader = dict(dataset=dict(ann_file='annotations/instances_train.json'))
val_dataloader = dict(dataset=dict(ann_file='annotations/instances_val.json'))
test_dataloader = val_dataloader

_bbox = dict(_base_.val_evaluator[0], ann_file=_base_.data_root + 'annotations/instances_val.json')
val_evaluator = [_bbox, *_base_.val_evaluator[1:]]
test_evaluator = val_evaluator
del _bbox

train_cfg = dict(max_iters=40000, val_interval=840)  # every 10 epochs, as the reference validates
param_scheduler = [dict(type='MultiStepLR', by_epoch=False, milestones=[30000], gamma=0.1)]
default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP', rule='greater'))  # the reference's --save_best_on_val
