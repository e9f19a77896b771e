"""NYUv2 as tools/dataset_converters/nyuv2.py writes it: 795 images to train on, 654 to test on, and the augmentation.

Numbers are the reference implementation's unless a comment says otherwise.
"""

data_root = 'data/nyuv2/'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='LoadAuxiliaryMaps'),
    dict(type='ROCKRandomCrop'),  # force_crops=True is the reference's --force_crops
    dict(type='RandomFlipWithMaps', prob=0.5),
    dict(type='ResizeWithMaps', scale=(640, 480), keep_ratio=False),
    dict(type='ROCKColorJitter', brightness=0.15, contrast=0.25, saturation=0.25, hue=0.05),
    dict(type='AuxiliaryTargets', stride=16),  # that of the map behind which the block is
    dict(type='PackMultiTaskInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAuxiliaryMaps'),
    # Images of another shape are stretched, since the priors are fractions of 480 x 640; the reference cuts them to 4:3.
    dict(type='ResizeWithMaps', scale=(640, 480), keep_ratio=False),
    dict(type='AuxiliaryTargets', stride=16),
    # After the resize: boxes are evaluated in pixels of the original image.
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackMultiTaskInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='NYUv2Dataset',
        data_root=data_root,
        ann_file='annotations/instances_trainval.json',
        # An image without any of the 19 classes still has depth, normals and a scene.
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='NYUv2Dataset',
        data_root=data_root,
        ann_file='annotations/instances_test.json',
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader

# At most 100 detections of an image count, as in the reference's COCO summary; mmdet's default counts up to 1000.
val_evaluator = [
    dict(
        type='HighIoUCocoMetric',
        ann_file=data_root + 'annotations/instances_test.json',
        metric='bbox',
        classwise=True,
        proposal_nums=(1, 10, 100)),
    dict(type='SceneAccuracy'),
    dict(type='DepthMetric'),
    dict(type='NormalsMetric'),
]
test_evaluator = val_evaluator
