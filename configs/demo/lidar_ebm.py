"""Energy head on the frozen small PointPillars of lidar_base.py, trained by NCE on scenes made fresh for every batch.

    make demo3d                                            # runs both configs, evaluates, draws
    python tools/train.py configs/demo/lidar_ebm.py        # this alone, after lidar_base.py

Hardware: 2 CPU cores, about four minutes. Result and spread: docs/results.md, section Demo in 3D.
"""

_base_ = ['./lidar_base.py']

work_dir = 'work_dirs/demo3d/seed0/energy_head'
load_from = f'work_dirs/demo3d/seed0/detector/iter_{_base_.max_iters}.pth'
head_iters = 600

detector = _base_.model
model = dict(
    _delete_=True,
    type='EBM3DDetector',
    detector=detector,
    energy_head=dict(
        type='EBM3DRefineHead',
        num_classes=1,
        in_channels=96,
        origin=_base_.point_cloud_range[:2],
        cell_size=0.4,  # voxels of 0.2 m, map at stride 2
        pixel_offset=0.25,  # half a pillar: where the 3x3 convolution of stride 2 has its centre
        standardize=True,
        fc_channels=[256, 256],
        objective=dict(
            type='NCEObjective',
            num_samples=64,  # half of the paper's, at half the time
            beta=0.0,
            noise=dict(
                type='GaussianMixtureNoise',
                # The paper's: x, y, z, l, w, h, yaw in metres and radians.
                sigmas=[[0.0625, 0.0625, 0.03125, 0.03125, 0.03125, 0.03125, 0.015625],
                        [0.125, 0.125, 0.0625, 0.0625, 0.0625, 0.0625, 0.03125],
                        [0.25, 0.25, 0.125, 0.125, 0.125, 0.125, 0.0625]]))),
    refiner=dict(type='GradientAscentRefiner', step_size=2e-4, num_steps=10, decay=0.5))

train_dataloader = dict(dataset=dict(seed=2000))
train_cfg = dict(max_iters=head_iters, val_interval=head_iters)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=10, norm_type=2))
param_scheduler = [
    dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=head_iters, T_max=head_iters, eta_min=1e-5)
]
