"""The papers' energy head, refinement and schedule for COCO, to be combined with any detector.

Numbers are those of the BMVC 2020 code unless a comment says otherwise. Names here do not clash
with mmdet's own base files, so a config lists both as bases and picks what it needs.
"""

custom_imports = dict(imports=['ebm_mmdet'], allow_failed_imports=False)

energy_head = dict(
    type='EBMBBoxHead',
    num_classes=80,
    in_channels=256,
    strides=[4, 8, 16, 32],  # P2 to P5 of an FPN; P6 is not used
    feature_levels=[0, 1, 2, 3],
    finest_scale=56,
    # mmdet's box head, whose weights the trunk starts from, was trained with aligned RoIAlign,
    # which reads features half a pixel to the left of PrRoIPool's nodes. The papers have 0.
    roi_shift=-0.5,
    fc_channels=[1024, 1024],
    objective=dict(
        type='NCEObjective',
        num_noise=127,  # boxes from the noise per object; with the positive, 128 are scored
        beta=0.1,  # NCE+: the positive is drawn with a tenth of the noise's sigmas; 0 is NCE
        noise=dict(type='GaussianMixtureNoise', sigmas=[0.075, 0.15, 0.3], dim=4)))

# The same on a pyramid that starts at stride 8 (RetinaNet, FCOS).
one_stage_energy_head = dict(
    energy_head,
    strides=[8, 16, 32],  # P3 to P5
    feature_levels=[0, 1, 2],
    finest_scale=112)  # keeps a box at 14 to 28 cells of its level, as 56 does from stride 4

# A head for small detectors, not from the papers: all levels concatenated, standardised features,
# narrow noise and short equal steps are what paid on small data (docs/results.md).
small_energy_head = dict(
    type='EBMBBoxHead',
    num_classes=80,
    strides=[8, 16, 32],
    feature_levels=[0, 1, 2],
    level_rule='concat',
    roi_shift=-0.5,
    standardize=True,
    fc_channels=[256, 256],
    class_agnostic=True,
    objective=dict(
        type='NCEObjective',
        num_noise=63,
        beta=0.1,
        noise=dict(type='GaussianMixtureNoise', sigmas=[0.0375, 0.075, 0.15], dim=4)))
small_refiner = dict(type='GradientAscentRefiner', step_size=1e-4, num_steps=10, decay=0.5)
# A fresh head on standardised features: AdamW instead of the papers' SGD from pretrained layers.
small_optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01))
# COCO without the mosaics that small detectors train on: the head is to know the features of whole, test-like images.
coco_train = dict(
    type='CocoDataset',
    data_root='data/coco/',
    ann_file='annotations/instances_train2017.json',
    data_prefix=dict(img='train2017/'),
    filter_cfg=dict(filter_empty_gt=True, min_size=32))

# Step lengths of (cx/w, cy/h, log w, log h) for NCE+; NCE takes half of them.
refiner = dict(
    type='GradientAscentRefiner', step_size=[8e-4, 8e-4, 3.2e-3, 3.2e-3], num_steps=10, decay=0.5)

schedule = dict(
    # 60,000 iterations of 16 images are about 8.2 epochs.
    train_cfg=dict(type='IterBasedTrainLoop', max_iters=60000, val_interval=5000),
    param_scheduler=[
        dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=500),
        dict(type='MultiStepLR', by_epoch=False, milestones=[40000, 50000], gamma=0.1)
    ],
    optim_wrapper=dict(
        type='OptimWrapper',
        optimizer=dict(type='SGD', lr=0.001, momentum=0.9, weight_decay=1e-4),
        paramwise_cfg=dict(bias_lr_mult=2.0, bias_decay_mult=0.0)),
    default_hooks=dict(
        # 'atomic': a checkpoint is there in full or not at all, whenever training is interrupted.
        checkpoint=dict(
            type='CheckpointHook', by_epoch=False, interval=2500, max_keep_ckpts=3,
            backend_args=dict(backend='atomic'))),
    log_processor=dict(by_epoch=False),
    train_sampler=dict(type='InfiniteSampler', shuffle=True))
