"""SSD on a dilated ResNet-50, on NYUv2: the detector that ROCK is compared with (the reference's --no_rock).

    tools/dist_train.sh configs/rock/ssd_r50_480x640_30k_nyuv2.py 1        # 1 GPU x 8 images
    tools/dist_test.sh  configs/rock/ssd_r50_480x640_30k_nyuv2.py CKPT 1 --eval bbox

Hardware: one GPU with 11 GB (the reference: an RTX 2080 Ti, 2.9 hours). Data: NYUv2 in data/nyuv2, by
tools/dataset_converters/nyuv2.py; with --box-convention ref the APs compare with the published ones.

Expected: published: 18.5 AP, 35.3 AP50 on the 654 test images (README of the reference implementation, one run, no spread); not
yet trained with this code.
"""

_base_ = ['./_base_/ssd_r50_nyuv2_model.py', './_base_/nyuv2_dataset.py', './_base_/rock_schedule.py']

custom_imports = dict(imports=['ebm_mmdet'], allow_failed_imports=False)

# No auxiliary task: what only they need is not loaded.
_maps = ('LoadAuxiliaryMaps', 'AuxiliaryTargets')
train_pipeline = [step for step in _base_.train_pipeline if step.type not in _maps]
test_pipeline = [step for step in _base_.test_pipeline if step.type not in _maps]
del _maps
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = _base_.val_evaluator[:1]
test_evaluator = val_evaluator
