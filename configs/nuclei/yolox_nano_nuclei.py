"""The base detector of the nuclei study: YOLOX-nano, fine-tuned from COCO weights.

    python tools/train.py configs/nuclei/yolox_nano_nuclei.py
    python tools/test.py configs/nuclei/yolox_nano_nuclei.py work_dirs/yolox_nano_nuclei/epoch_25.pth

Data and weights: README.md of this folder. Hardware: 2 CPU cores and 3 GB. Time and accuracy as measured: docs/results.md, section Nuclei.
"""

_base_ = ['./_base_/yolox_nano_one_class.py', './_base_/nuclei_dataset.py']

data_root = _base_.nuclei.data_root

max_epochs = 25  # of 13 iterations with 8 crops: ten minutes; 60 give 2 AP more
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
train_dataloader = dict(
    _delete_=True,
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    # Nothing is mixed; the wrapper is what YOLOXModeSwitchHook expects.
    dataset=dict(
        type='MultiImageMixDataset', dataset=_base_.nuclei.train_images, pipeline=_base_.nuclei.augment))
val_dataloader = dict(_delete_=True, **_base_.nuclei.val_dataloader)
test_dataloader = val_dataloader
val_evaluator = dict(type='HighIoUCocoMetric', ann_file=_base_.nuclei.val_annotations)
test_evaluator = val_evaluator

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR', eta_min=1e-5, begin=2, end=max_epochs, T_max=max_epochs - 2, by_epoch=True,
        convert_to_iter_based=True),
]
custom_hooks = [
    # L1 loss on the boxes from the first epoch on: the base is meant to be precise.
    dict(type='YOLOXModeSwitchHook', num_last_epochs=max_epochs, priority=48),
    *_base_.custom_hooks,
]
default_hooks = dict(checkpoint=dict(interval=10))
auto_scale_lr = dict(_delete_=True, base_batch_size=8)
_base_.pop('nuclei')
