"""YOLOX-nano with a small energy head trained by NCE+, on COCO; trains on a laptop's CPU too.

    tools/dist_train.sh configs/ebm/yolox_nano_nceplus.py 8 --cfg-options load_from=YOLOX_NANO.pth

mmdet publishes the config of YOLOX-nano without weights, so load_from is yours to give: weights
with mmdet's key names, converted from the YOLOX authors' release or trained with
mmdet::yolox/yolox_nano_8xb8-300e_coco.py. Not yet trained on COCO. The small head is that of
_base_/ebm_recipe.py.
"""

_base_ = ['mmdet::yolox/yolox_nano_8xb8-300e_coco.py', '../_base_/ebm_recipe.py']

detector = _base_.model
detector.data_preprocessor.batch_augments = None  # one image size, the one that is tested

model = dict(
    _delete_=True,
    type='EBMDetector',
    detector=detector,
    energy_head=dict(_base_.small_energy_head, in_channels=64),
    refiner=_base_.small_refiner)

train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=_base_.backend_args),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(416, 416), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0))),
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
custom_hooks = []  # YOLOX's mosaic switch, EMA and norm synchronisation concern its own training
auto_scale_lr = dict(base_batch_size=64)
val_evaluator = dict(type='HighIoUCocoMetric')
test_evaluator = val_evaluator
