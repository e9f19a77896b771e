"""The papers' energy head, refinement and schedule for COCO, to be combined with any detector of mmdet.

Numbers are those of the BMVC 2020 paper and its released code unless a comment says otherwise.

A recipe lists this file as its second base and takes what it needs from `_base_.ebm`. Its line

    _base_.merge(_base_.pop('ebm').training)

puts the training settings over those of the detector's own config, and takes `ebm` out of the result: every option that
is left in a recipe is one that has an effect. Whatever the recipe itself assigns comes on top.
"""

ebm = dict(
    head=dict(
        type='EBMBBoxHead',
        num_classes=80,
        in_channels=256,
        strides=[4, 8, 16, 32],  # P2 to P5 of an FPN; P6 is not used
        feature_levels=[0, 1, 2, 3],
        finest_scale=56,
        # mmdet's box head, whose weights the trunk starts from, was trained with aligned RoIAlign, which reads features
        # half a pixel to the left of PrRoIPool's nodes. The papers have 0.
        roi_shift=-0.5,
        fc_channels=[1024, 1024],
        objective=dict(
            type='NCEObjective',
            num_noise=127,  # boxes from the noise per object; with the positive, 128 are scored
            beta=0.1,  # NCE+: the positive is drawn with a tenth of the noise's sigmas; 0 is NCE
            noise=dict(type='GaussianMixtureNoise', sigmas=[0.075, 0.15, 0.3], dim=4))),
    # Step lengths of (cx/w, cy/h, log w, log h) for NCE+; NCE takes half of them.
    refiner=dict(type='GradientAscentRefiner', step_size=[8e-4, 8e-4, 3.2e-3, 3.2e-3], num_steps=10, decay=0.5),
    training=dict(
        # 60,000 iterations of 16 images are about 8.2 epochs.
        train_cfg=dict(_delete_=True, type='IterBasedTrainLoop', max_iters=60000, val_interval=5000),
        train_dataloader=dict(sampler=dict(type='InfiniteSampler', shuffle=True)),
        param_scheduler=[
            dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=500),
            dict(type='MultiStepLR', by_epoch=False, milestones=[40000, 50000], gamma=0.1)
        ],
        optim_wrapper=dict(
            _delete_=True,
            type='OptimWrapper',
            optimizer=dict(type='SGD', lr=0.001, momentum=0.9, weight_decay=1e-4),
            paramwise_cfg=dict(bias_lr_mult=2.0, bias_decay_mult=0.0)),
        default_hooks=dict(
            # 'atomic': a checkpoint is written in full or not at all, whenever training is interrupted.
            checkpoint=dict(
                type='CheckpointHook', by_epoch=False, interval=2500, max_keep_ckpts=3,
                backend_args=dict(backend='atomic'))),
        log_processor=dict(by_epoch=False),
        # AP at IoU 0.6 to 0.9 too, where refinement shows.
        val_evaluator=dict(type='HighIoUCocoMetric'),
        test_evaluator=dict(type='HighIoUCocoMetric')))

# The same head on a pyramid that starts at stride 8 (RetinaNet, FCOS).
ebm['one_stage_head'] = dict(
    ebm['head'],
    strides=[8, 16, 32],  # P3 to P5
    feature_levels=[0, 1, 2],
    finest_scale=112)  # keeps a box at 14 to 28 cells of its level, as 56 does from stride 4

# A head for small detectors, not from the papers: all levels concatenated, standardised features, narrow noise and
# short equal steps are what paid on small data (docs/results.md).
ebm['small_head'] = dict(
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
ebm['small_refiner'] = dict(type='GradientAscentRefiner', step_size=1e-4, num_steps=10, decay=0.5)

# Small detectors train on mosaics, with hooks that switch these off and average weights. The head has to know the
# features of whole images like those that are tested, and the detector is not trained: none of this is needed.
ebm['small_load'] = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True),
]
ebm['small_training'] = dict(
    ebm['training'],
    train_dataloader=dict(
        batch_size=8,
        sampler=dict(type='InfiniteSampler', shuffle=True),
        dataset=dict(
            _delete_=True,
            type='CocoDataset',
            data_root='data/coco/',
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017/'),
            filter_cfg=dict(filter_empty_gt=True, min_size=32))),
    # A new head on standardised features: AdamW instead of the papers' SGD, which starts from pretrained layers.
    optim_wrapper=dict(
        _delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01)),
    custom_hooks=[],
    auto_scale_lr=dict(base_batch_size=64))
