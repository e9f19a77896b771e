"""RTMDet-tiny with a small energy head trained by NCE+, on COCO.

    tools/dist_train.sh configs/ebm/rtmdet_tiny_nceplus.py 8

Not published anywhere and not yet trained. The small head is that of _base_/ebm_recipe.py.
"""

_base_ = ['mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', '../_base_/ebm_recipe.py']

load_from = 'https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet_tiny_8xb32-300e_coco/rtmdet_tiny_8xb32-300e_coco_20220902_112414-78e30dcc.pth'  # noqa
detector = _base_.model
detector.backbone.init_cfg = None  # load_from holds the backbone too

model = dict(
    _delete_=True,
    type='EBMDetector',
    detector=detector,
    energy_head=dict(_base_.small_energy_head, in_channels=96),
    refiner=_base_.small_refiner)

train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=_base_.backend_args),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(640, 640), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Pad', size=(640, 640), pad_val=dict(img=(114, 114, 114))),
    dict(type='PackDetInputs')
]
train_dataloader = dict(
    batch_size=8,
    sampler=_base_.schedule.train_sampler,
    dataset=dict(_delete_=True, **_base_.coco_train, pipeline=train_pipeline))

train_cfg = dict(_delete_=True, **_base_.schedule.train_cfg)
param_scheduler = _base_.schedule.param_scheduler
optim_wrapper = dict(_delete_=True, **_base_.small_optim_wrapper)
default_hooks = _base_.schedule.default_hooks
log_processor = _base_.schedule.log_processor
custom_hooks = []  # RTMDet's EMA and pipeline switch concern its own training
auto_scale_lr = dict(base_batch_size=64)
val_evaluator = dict(type='HighIoUCocoMetric')
test_evaluator = val_evaluator
