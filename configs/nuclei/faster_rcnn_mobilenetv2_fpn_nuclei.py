"""A two-stage base for the nuclei: Faster R-CNN with MobileNetV2-FPN, ImageNet weights, a short training.

    python tools/train.py configs/nuclei/faster_rcnn_mobilenetv2_fpn_nuclei.py

Data and weights: README.md of this folder. Hardware: 2 CPU cores. What it is: a small detector trained for 300 iterations of two crops, so that the papers' own pipeline (all
boxes, energy-guided NMS, class-specific head on the box head's layers) can be run on real images. It is not a
strong nucleus detector: only its backbone has seen other images before, where YOLOX-nano brings a whole detector.
"""

_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    'mmdet::_base_/default_runtime.py',
    './_base_/nuclei_dataset.py',
]

data_root = _base_.nuclei.data_root
custom_imports = dict(imports=['ebm_mmdet'], allow_failed_imports=False)

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),  # as the weights expect (README.md)
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(2, 4, 6),  # strides 8, 16, 32: stride 4 would cost as much as all of these together
        frozen_stages=2,
        norm_eval=True,  # small batches; the re-created statistics are part of the weights
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/mobilenet_v2_imagenet_mmdet.pth')),
    # A quarter of the usual width: everything after the backbone starts from nothing.
    neck=dict(in_channels=[32, 96, 320], out_channels=64, num_outs=4),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        # Nuclei are 12 px wide, 18 to 31 px after enlarging: anchors of 16, 32, ... px.
        anchor_generator=dict(scales=[2], strides=[8, 16, 32, 64])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, featmap_strides=[8, 16, 32]),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=1)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=300),
        rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=300)))

train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=_base_.nuclei.train_dataset)
val_dataloader = _base_.nuclei.val_dataloader
test_dataloader = val_dataloader
val_evaluator = dict(type='HighIoUCocoMetric', ann_file=_base_.nuclei.val_annotations)
test_evaluator = val_evaluator

max_iters = 300
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=10.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR', eta_min=1e-5, begin=50, end=max_iters, T_max=max_iters - 50, by_epoch=False),
]
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(by_epoch=False, interval=50, max_keep_ckpts=1, backend_args=dict(backend='atomic')))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
_base_.pop('nuclei')
