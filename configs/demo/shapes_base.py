"""A very small FCOS, trained from scratch on generated shapes and stopped early on purpose.

    make demo                                               # generates the data, runs this and shapes_ebm.py
    python tools/train.py configs/demo/shapes_base.py       # this alone, once the data is there

Hardware: 2 CPU cores, one to three minutes. Result and spread: docs/results.md, section Demo.
Every number that is not FCOS's own says where it comes from.
"""

custom_imports = dict(imports=['ebm_mmdet'], allow_failed_imports=False)
default_scope = 'mmdet'
work_dir = 'work_dirs/demo/seed0/detector'

data_root = 'work_dirs/demo/data/'
classes = ('ellipse', 'polygon', 'star')
image_size = 128  # the smallest at which the edges of the smallest shape (20 px) still are more than a feature apart
batch_size = 8
max_iters = 500  # stopped early on purpose: a detector trained to the end leaves less to refine

model = dict(
    type='FCOS',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[110.0, 110.0, 110.0], std=[55.0, 55.0, 55.0], pad_size_divisor=16),
    backbone=dict(
        type='ResNet',
        depth=18,
        base_channels=16,  # a quarter of ResNet-18's 64
        stem_channels=16,
        num_stages=3,  # at stride 32 the image would be 4 x 4
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(0, 1, 2),
        norm_cfg=dict(type='BN'),
        norm_eval=False,  # from scratch: batch norms must learn
        init_cfg=dict(type='Kaiming', layer='Conv2d')),
    neck=dict(
        type='FPN', in_channels=[16, 32, 64], out_channels=48, num_outs=3, norm_cfg=dict(type='BN'), act_cfg=None),
    bbox_head=dict(
        type='FCOSHead',
        num_classes=len(classes),
        in_channels=48,
        feat_channels=48,
        stacked_convs=2,
        strides=[4, 8, 16],
        regress_ranges=((-1, 16), (16, 32), (32, 1e8)),
        center_sampling=True,
        norm_on_bbox=True,
        centerness_on_reg=True,
        # Shared by all levels, whose statistics differ: batch norm would keep one set that fits none of them.
        norm_cfg=dict(type='GN', num_groups=16, requires_grad=True),
        loss_bbox=dict(type='GIoULoss', loss_weight=1.0)),
    test_cfg=dict(
        nms_pre=300, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.6), max_per_img=100))

meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
# Resizing does nothing to the generated images; it is there for `make demo DATA=...`.
flip_and_pack = [
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs', meta_keys=meta_keys),
]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(image_size, image_size), keep_ratio=True),
    *flip_and_pack,
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(image_size, image_size), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=meta_keys),
]
train_dataset = dict(
    type='CocoDataset',
    data_root=data_root,
    ann_file='annotations/train.json',
    data_prefix=dict(img='images/'),
    metainfo=dict(classes=classes),
    filter_cfg=dict(filter_empty_gt=True, min_size=1),
    pipeline=train_pipeline)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=0,  # reading takes less than a tenth of a step
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=train_dataset)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        ann_file='annotations/val.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=classes),
        test_mode=True,
        pipeline=test_pipeline))
val_evaluator = dict(type='HighIoUCocoMetric', ann_file=data_root + 'annotations/val.json', metric='bbox')
test_dataloader = val_dataloader
test_evaluator = val_evaluator

train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    # 5e-3 reaches in 200 iterations what 2e-3 reaches in 240: few iterations want large steps.
    optimizer=dict(type='AdamW', lr=5e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=20, end=max_iters, T_max=max_iters - 20, eta_min=2.5e-4),
]
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=20),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=200, max_keep_ckpts=1, backend_args=dict(backend='atomic')),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='DetVisualizationHook'))
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(type='LogProcessor', by_epoch=False, window_size=20)
log_level = 'INFO'
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='gloo'))
randomness = dict(seed=0)
load_from = None
resume = False
