"""The ROCK block in front of the FPN of mmdet's Faster R-CNN, on NYUv2: not in the paper.

    tools/dist_train.sh configs/rock/rock_faster_rcnn_r50_fpn_nyuv2.py 1        # 1 GPU x 8 images
    tools/dist_test.sh  configs/rock/rock_faster_rcnn_r50_fpn_nyuv2.py CKPT 1 --eval bbox

Hardware: one GPU with 11 GB. Data: NYUv2 in data/nyuv2 with normals, by tools/dataset_converters/nyuv2.py. The block stands
behind the last level of the backbone (stride 32), and all levels of the pyramid get what it adds. Any detector with a
`backbone` takes the place of this one in the same way.

Expected: not published anywhere and not trained here.
"""

_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', './_base_/nyuv2_dataset.py', './_base_/rock_schedule.py']

custom_imports = dict(imports=['ebm_mmdet'], allow_failed_imports=False)

_base_.model.roi_head.bbox_head.num_classes = 19
_base_.model.backbone.frozen_stages = -1  # as in ROCK: statistics are ImageNet's, weights are trained

model = dict(_delete_=True, type='ROCKDetector', detector=_base_.model, block=dict(type='ROCKBlock', in_channels=2048))

# The block's map has 15 x 20 cells here.
train_pipeline = [*_base_.train_pipeline[:-2], dict(type='AuxiliaryTargets', stride=32), _base_.train_pipeline[-1]]
test_pipeline = [
    dict(type='AuxiliaryTargets', stride=32) if step.type == 'AuxiliaryTargets' else step
    for step in _base_.test_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# The schedule is ROCK's; Adam's 5e-5 is SGD's 0.01 here, which Faster R-CNN is trained with (0.02 for 16 images).
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4),
    clip_grad=dict(max_norm=35.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=False, milestones=[25000], gamma=0.1),
]
