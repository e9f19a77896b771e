"""YOLOX-nano on nuclei of U2OS cells, 117 to an image: a detector as a user has it, for `python -m ebm_mmdet fit`.

    python tools/train.py configs/bbbc039/yolox_nano_bbbc039.py
    python -m ebm_mmdet fit configs/bbbc039/yolox_nano_bbbc039.py work_dirs/yolox_nano_bbbc039/epoch_12.pth

Data and weights: README.md of this folder. Hardware: 2 CPU cores. Accuracy as measured: docs/results.md,
section Nuclei of U2OS cells.
"""

_base_ = ['../nuclei/_base_/yolox_nano_one_class.py', './_base_/bbbc039_dataset.py']

data_root = 'data/bbbc039/'

# Of 30 iterations with 4 crops. The mean loss was 1.48 in epoch 10 and 1.42 in the last two.
max_epochs = 12
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    dataset=dict(_delete_=True, **_base_.bbbc039.train_dataset))
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    dataset=dict(_delete_=True, **_base_.bbbc039.val_dataset))
test_dataloader = val_dataloader
# An image has up to 230 nuclei, and of CocoMetric 100 boxes count in AP.
val_evaluator = dict(type='HighIoUCocoMetric', ann_file=_base_.bbbc039.val_annotations, max_dets=300)
test_evaluator = val_evaluator

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(
        type='CosineAnnealingLR', eta_min=1e-5, begin=1, end=max_epochs, T_max=max_epochs - 1, by_epoch=True,
        convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(interval=max_epochs))
auto_scale_lr = dict(_delete_=True, base_batch_size=4)
_base_.pop('bbbc039')
