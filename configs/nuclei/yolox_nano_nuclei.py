"""The base detector of the nuclei study: YOLOX-nano, fine-tuned from COCO weights.

    python tools/train.py configs/nuclei/yolox_nano_nuclei.py
    python tools/test.py configs/nuclei/yolox_nano_nuclei.py work_dirs/yolox_nano_nuclei/epoch_25.pth

Data and weights: README.md of this folder. Hardware: 2 CPU cores and 3 GB. Time and accuracy as measured: docs/results.md, section Nuclei.
"""

_base_ = ['mmdet::yolox/yolox_nano_8xb8-300e_coco.py', './_base_/nuclei_dataset.py']

data_root = _base_.nuclei.data_root
custom_imports = dict(imports=['ebm_mmdet'], allow_failed_imports=False)
# 0.91 M parameters, 25.8 AP on COCO val2017 (README.md). Its class layers have 80 outputs, which do not
# fit and start anew: the loading message says so.
load_from = 'checkpoints/yolox_nano_coco_mmdet.pth'

model = dict(
    data_preprocessor=dict(batch_augments=None),  # the base changes the image size every ten iterations
    bbox_head=dict(num_classes=1))

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

# AdamW instead of the base's SGD: 325 iterations, and the re-created batch norms (README.md) leave
# gradients of very different size.
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=10.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR', eta_min=1e-5, begin=2, end=max_epochs, T_max=max_epochs - 2, by_epoch=True,
        convert_to_iter_based=True),
]
custom_hooks = [
    # L1 loss on the boxes from the first epoch on: the base is meant to be precise.
    dict(type='YOLOXModeSwitchHook', num_last_epochs=max_epochs, priority=48),
    # The weights are the published network only with their running statistics (README.md).
    dict(type='NormEvalHook'),
]
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=10, max_keep_ckpts=1, backend_args=dict(backend='atomic')))
auto_scale_lr = dict(_delete_=True, base_batch_size=8)
randomness = dict(seed=0)
_base_.pop('nuclei')
