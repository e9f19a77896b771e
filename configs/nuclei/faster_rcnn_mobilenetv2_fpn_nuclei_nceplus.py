"""The papers' pipeline on the small two-stage nuclei detector: all boxes, energy-guided NMS, refinement.

    python tools/train.py configs/nuclei/faster_rcnn_mobilenetv2_fpn_nuclei.py      # first, the detector
    python tools/train.py configs/nuclei/faster_rcnn_mobilenetv2_fpn_nuclei_nceplus.py

Hardware: 2 CPU cores. Results: docs/results.md, section Nuclei, two-stage.
"""

_base_ = [
    './faster_rcnn_mobilenetv2_fpn_nuclei.py', './_base_/nuclei_dataset.py', './_base_/ebm_head_schedule.py'
]

load_from = 'work_dirs/faster_rcnn_mobilenetv2_fpn_nuclei/iter_300.pth'
detector = _base_.model
detector.backbone.init_cfg = None  # load_from holds the backbone too

model = dict(
    _delete_=True,
    type='EBMDetector',
    backbone=dict(),  # not read; mmdet's init_detector looks for it
    detector=detector,
    energy_head=dict(
        type='EBMBBoxHead',
        num_classes=1,  # class-specific as in the papers, which with one class is one output
        in_channels=64,
        strides=[8, 16, 32],
        feature_levels=[0, 1, 2],
        level_rule='assign',
        finest_scale=56,
        roi_shift=-0.5,  # what the layers copied from the box head were trained with
        fc_channels=[256, 256],  # as the box head, whose layers are copied
        objective=dict(
            type='NCEObjective',
            num_noise=31,
            beta=0.1,
            noise=dict(type='GaussianMixtureNoise', sigmas=[0.075, 0.15, 0.3], dim=4))),
    refiner=dict(type='GradientAscentRefiner', step_size=[8e-4, 8e-4, 3.2e-3, 3.2e-3], num_steps=10, decay=0.5),
    candidates=dict(type='EnergyGuidedNMS', score_thr=0.05, iou_threshold=0.5, max_per_img=100))

train_dataloader = dict(batch_size=2, num_workers=1)
_base_.merge(_base_.pop('head_schedule'))
max_iters = 500  # a third of the other recipe: the trunk starts from the box head
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=max_iters, T_max=max_iters, eta_min=1e-5)
]
# Read by tools/analysis_tools/fit_residual_prior.py and tools/study.py.
fit_dataset = _base_.nuclei.fit_dataset
_base_.pop('nuclei')
