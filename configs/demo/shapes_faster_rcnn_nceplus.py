"""Energy head on the frozen small Faster R-CNN of shapes_faster_rcnn.py, trained by NCE+.

    python tools/train.py configs/demo/shapes_faster_rcnn.py      # first, the detector
    python tools/train.py configs/demo/shapes_faster_rcnn_nceplus.py

Hardware: 2 CPU cores. Head and steps are those of shapes_ebm.py, where every number is explained; they were chosen for
the FCOS there and not again for this detector.
"""

_base_ = ['./shapes_faster_rcnn.py']

load_from = f'work_dirs/shapes_faster_rcnn/iter_{_base_.max_iters}.pth'
head_iters = 600

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
            num_noise=31,
            beta=0.1,
            noise=dict(type='GaussianMixtureNoise', sigmas=[0.05, 0.1, 0.2], dim=4))),
    refiner=dict(type='GradientAscentRefiner', step_size=6e-4, num_steps=10, decay=0.5),
    init_trunk_from=None)  # the box head reads one level, this head reads all of them

train_dataloader = dict(
    batch_size=5,
    dataset=dict(
        _delete_=True,
        type='ShapesDataset',
        num_images=1200,  # none of them is in the detector's training set
        seed=1000,
        image_size=(_base_.image_size, _base_.image_size),
        extent=(20, 64),
        pipeline=[dict(type='PackDetInputs', meta_keys=_base_.meta_keys)]))
train_cfg = dict(max_iters=head_iters, val_interval=head_iters)
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01))
param_scheduler = [
    dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=head_iters, T_max=head_iters, eta_min=1e-5)
]
