r"""Energy head on the detector of two_conventions_base.py: f has a hill for each convention, and climbs start from 8 points.

    python tools/study.py conventions configs/demo/two_conventions_base.py configs/demo/two_conventions_nceplus.py \
        --out work_dirs/two_conventions

Hardware: one CPU core, some eight minutes with the detector, three seeds, and an L1 and an L2 head for each. Expected: docs/results.md,
Two conventions. The head is that of shapes_ebm.py, half as wide; numbers without a comment are explained there.
"""

_base_ = ['./two_conventions_base.py']

work_dir = 'work_dirs/two_conventions/energy_head'
load_from = f'work_dirs/two_conventions/detector/iter_{_base_.train_cfg.max_iters}.pth'
head_iters = 300  # half of shapes_ebm.py, to keep the study short

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
        fc_channels=[128, 128],
        objective=dict(
            type='NCEObjective',
            num_noise=31,
            beta=0.1,
            # The other convention is up to 0.45 of the centre and 0.64 of log size away: the widest noise reaches it.
            noise=dict(type='GaussianMixtureNoise', sigmas=[0.05, 0.15, 0.4], dim=4))),
    # No prior: it would pull to a detection in the middle. start_std is half of the distance between the hills. Steps are
    # three times those of shapes_ebm.py, which are as good in AP75 and 2 AP worse, on 40 other images with one head.
    refiner=dict(
        type='GradientAscentRefiner', step_size=2e-3, num_steps=10, decay=0.5,
        num_starts=8, start_std=0.3, num_modes=3, num_samples=64),
    min_score=0.1,  # boxes below hardly count, and cost as much
    init_trunk_from=None)  # the box head reads one level, this head reads all of them

train_dataloader = dict(
    batch_size=5,
    dataset=dict(num_images=500, seed=1000, pipeline=[dict(type='PackDetInputs', meta_keys=_base_.meta_keys)]))
train_cfg = dict(max_iters=head_iters, val_interval=head_iters)
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01))
param_scheduler = [
    dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=head_iters, T_max=head_iters, eta_min=1e-5)
]
