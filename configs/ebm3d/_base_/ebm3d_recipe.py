"""The paper's energy head, refinement and schedule for KITTI, to be combined with any detector of mmdet3d.

Numbers are those of Gustafsson et al., CVPR Workshops 2021 (arXiv:2012.04634), and of its released code, unless a
comment says otherwise.

A recipe lists this file as its second base and takes what it needs from `_base_.ebm3d`. Its line

    _base_.merge(_base_.pop('ebm3d').training)

puts the training settings over those of the detector's own config, and takes `ebm3d` out of the result: every option
that is left in a recipe is one that has an effect. Whatever the recipe itself assigns comes on top.
"""

ebm3d = dict(
    head=dict(
        type='EBM3DRefineHead',
        num_classes=1,
        in_channels=512,  # SECONDFPN of SECOND and SA-SSD; the paper's own map has 256
        origin=[0, -40],  # lower limits of the point cloud range
        cell_size=0.4,  # voxels of 0.05 m, stride 8
        pixel_offset=0.0,
        grid_size=[4, 7],
        fc_channels=[1024, 1024],
        objective=dict(
            type='NCEObjective',
            num_noise=128,  # boxes from the noise per object, besides the annotation
            beta=0.0,  # NCE
            noise=dict(
                type='GaussianMixtureNoise',
                # 1.25 times (0.05, 0.1, 0.2) in x and y, half of that in z, l, w and h, a quarter in yaw; metres and
                # radians.
                sigmas=[
                    [0.0625, 0.0625, 0.03125, 0.03125, 0.03125, 0.03125, 0.015625],
                    [0.125, 0.125, 0.0625, 0.0625, 0.0625, 0.0625, 0.03125],
                    [0.25, 0.25, 0.125, 0.125, 0.125, 0.125, 0.0625],
                ],
                shared=False))),  # the released code: True, one draw for all boxes of a frame
    # Step lengths of (x, y, z, l, w, h, yaw). They suit this noise: if you multiply its sigmas by a factor, multiply
    # the steps by the square of that factor.
    refiner=dict(type='GradientAscentRefiner', step_size=[2e-4] * 7, num_steps=10, decay=0.5))

epochs = 80
ebm3d['training'] = dict(
    # mmdet3d repeats the data twice per epoch; here an epoch is 3,712 frames, or 1,856 iterations.
    train_dataloader=dict(batch_size=2, dataset=dict(times=1)),
    train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=10),
    optim_wrapper=dict(
        _delete_=True,
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=0.0003, betas=(0.95, 0.99), weight_decay=0.01),
        clip_grad=dict(max_norm=10, norm_type=2)),
    # One cycle: 0.0003 to 0.003 in two fifths of the time, then to 3e-8; beta1 from 0.95 to 0.85 and back.
    param_scheduler=[
        dict(
            type='OneCycleLR', eta_max=0.003, total_steps=epochs, pct_start=0.4, div_factor=10,
            final_div_factor=1e4, by_epoch=True, convert_to_iter_based=True),
        dict(
            type='CosineAnnealingMomentum', eta_min=0.85, T_max=32, begin=0, end=32, by_epoch=True,
            convert_to_iter_based=True),
        dict(
            type='CosineAnnealingMomentum', eta_min=0.95, T_max=48, begin=32, end=80, by_epoch=True,
            convert_to_iter_based=True),
    ],
    default_hooks=dict(
        # 'atomic': a checkpoint is written in full or not at all, whenever training is interrupted.
        checkpoint=dict(
            type='CheckpointHook', interval=5, max_keep_ckpts=3, backend_args=dict(backend='atomic'))),
    auto_scale_lr=dict(base_batch_size=2),
    # AP at IoU 0.7 to 0.9, where refinement shows; needs no GPU.
    val_evaluator=dict(type='EBMKittiMetric'),
    test_evaluator=dict(type='EBMKittiMetric'))
del epochs
