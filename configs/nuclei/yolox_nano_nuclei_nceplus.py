"""Energy head on the frozen nuclei detector, trained by NCE+; boxes climb a short way uphill.

    python tools/train.py configs/nuclei/yolox_nano_nuclei.py               # first, the detector
    python tools/train.py configs/nuclei/yolox_nano_nuclei_nceplus.py
    python tools/test.py configs/nuclei/yolox_nano_nuclei_nceplus.py work_dirs/yolox_nano_nuclei_nceplus/iter_1500.pth

Several seeds, rivals and error bars: tools/study.py refinement with this config. Other objectives: objective_study.yaml.
Hardware: 2 CPU cores. Expected: +0.2 AP with these short steps, +0.5 AP and +2.7 AP90 with the prior of
refinement_study.yaml (docs/results.md, section Nuclei).
"""

_base_ = ['./yolox_nano_nuclei.py', './_base_/nuclei_dataset.py', './_base_/ebm_head_schedule.py']

load_from = 'work_dirs/yolox_nano_nuclei/epoch_25.pth'

model = dict(
    _delete_=True,
    type='EBMDetector',
    backbone=dict(),  # not read; mmdet's init_detector looks for it
    clip_boxes='all',  # YOLOX does not clip; clipping alone would count as a gain
    detector=_base_.model,
    # A nucleus is about 24 px wide in the network's input. Stride 4 comes before the neck.
    feature_source=['neck', 'backbone.stage1'],
    energy_head=dict(
        type='EBMBBoxHead',
        num_classes=1,
        class_agnostic=True,
        feature_levels=[3, 0],  # backbone.stage1 and the finest map of the neck
        in_channels=[32, 64],
        strides=[4, 8],  # at stride 16 a nucleus is one or two cells
        level_rule='concat',  # nuclei all have one size: a level rule would always choose the same map
        # In pixels of the features. Strided convolutions of this backbone see cell i of stride s around pixel s i + 1.
        roi_shift=-0.125,
        standardize=True,
        fc_channels=[256, 256],  # wider ones learn 100 images by heart
        objective=dict(
            type='NCEObjective',
            num_noise=31,  # papers, COCO val: 39.2 AP with 31, 39.4 with 127; a quarter of the time
            beta=0.1,
            # Half of the papers' sigmas: the base is precise already, boxes far away teach nothing new.
            noise=dict(type='GaussianMixtureNoise', sigmas=[0.0375, 0.075, 0.15], dim=4))),
    # Short, and equal in centre and size (the papers: 8e-4 and 3.2e-3): the box is to stop between the detection,
    # which knows something of its own, and the top of a density learned from 100 images.
    refiner=dict(type='GradientAscentRefiner', step_size=1e-4, num_steps=10, decay=0.5))

# About 16 nuclei per crop: 32 boxes per iteration.
train_dataloader = dict(
    _delete_=True,
    batch_size=2,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=_base_.nuclei.train_dataset)
_base_.merge(_base_.pop('head_schedule'))
custom_hooks = []  # nothing of the detector is trained
# Read by tools/analysis_tools/fit_residual_prior.py and tools/study.py.
fit_dataset = _base_.nuclei.fit_dataset
_base_.pop('nuclei')
