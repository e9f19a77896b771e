"""Generated rooms of 96 x 128 pixels: 2,000 images to train on and 400 to validate on, made when they are first read.

No file is needed. A room takes about 15 ms of one core, and with `cache` it is made once and then kept: 2,000 rooms are
0.25 GB in the worker's memory. `num_images=1_000_000, cache=False` is a set in which no room comes twice;
`missing=dict(depth=0.5)` leaves half of the images without depth.
"""

image_size = (96, 128)
num_classes = 11
num_scenes = 8
map_stride = 8  # of the map behind which the block is

# The full variety of looks is too much for some minutes of training from scratch: after 750 iterations the SSD had an AP50
# of 4 with it, and of 9 with these. What a thing is still shows in its shape alone; colours and patterns say nothing.
options = dict(
    image_size=image_size,
    nuisance=0.25,
    materials=(20, 30),  # many, so that things seldom look like what is behind them
    min_pixels=60,  # of 12,288; smaller ones are ignored
    min_visible=0.4)

train_pipeline = [
    dict(type='RandomFlipWithMaps', prob=0.5),
    dict(type='AuxiliaryTargets', stride=map_stride),
    dict(type='PackMultiTaskInputs'),
]
test_pipeline = [
    dict(type='AuxiliaryTargets', stride=map_stride),
    # `instances` are the annotations for the metric, which has no file of them.
    dict(
        type='PackMultiTaskInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances')),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=1,  # makes rooms while the other core learns
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='RoomScenesDataset',
        num_images=2000,  # some three times NYUv2's 795 images, at a 25th of their pixels
        seed=0,
        options=options,
        cache=True,
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='RoomScenesDataset',
        num_images=400,
        seed=1_000_000,  # far from the seeds of training sets
        options=options,
        cache=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader

# At most 100 detections of an image count, as on NYUv2.
val_evaluator = [
    dict(type='HighIoUCocoMetric', metric='bbox', classwise=True, proposal_nums=(1, 10, 100)),
    dict(type='SceneAccuracy'),
    dict(type='DepthMetric'),
    dict(type='NormalsMetric'),
]
test_evaluator = val_evaluator
