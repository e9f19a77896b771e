"""Energy head on the frozen detector of two_conventions_base.py: f has two hills, and the refinement climbs from eight points.
"""

_base_ = ['./two_conventions_base.py']

work_dir = 'work_dirs/two_conventions/energy_head'
load_from = f'work_dirs/two_conventions/detector/iter_{_base_.max_iters}.pth'
head_iters = 800

detector = _base_.model
model = dict(
    _delete_=True,
    type='EBMDetector',
    backbone=dict(),  # not read; mmdet's init_detector looks for it
    detector=detector,
    energy_head=dict(
        type='EBMBBoxHead',
        num_classes=len(_base_.classes),
        class_agnostic=True,
        in_channels=48,
        strides=[4, 8, 16],
        feature_levels=[0, 1, 2],
        level_rule='concat',
        roi_shift=0.0,
        standardize=True,
        fc_channels=[256, 256],
        objective=dict(
            type='NCEObjective',
            num_noise=63,
            beta=0.1,
            noise=dict(type='GaussianMixtureNoise', sigmas=[0.05, 0.15, 0.45], dim=4))),
    refiner=dict(
        type='GradientAscentRefiner', step_size=6e-4, num_steps=20, decay=0.5,
        num_starts=8, start_std=0.3, num_modes=3, num_samples=64),
    init_trunk_from=None)  # the box head reads one level, this head reads all of them

train_dataloader = dict(
    batch_size=5,
    dataset=dict(num_images=1200, seed=1000, pipeline=[dict(type='PackDetInputs', meta_keys=_base_.meta_keys)]))
train_cfg = dict(max_iters=head_iters, val_interval=head_iters)
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01))
param_scheduler = [
    dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=head_iters, T_max=head_iters, eta_min=1e-5)
]
