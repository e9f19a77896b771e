"""YOLOX-nano on nuclei of U2OS cells, 117 to an image: a detector as a user has it, for `python -m ebm_mmdet fit`.

    python tools/train.py configs/bbbc039/yolox_nano_bbbc039.py
    python -m ebm_mmdet fit configs/bbbc039/yolox_nano_bbbc039.py work_dirs/yolox_nano_bbbc039/epoch_12.pth

Data and weights: README.md of this folder. Hardware: 2 CPU cores. Accuracy as measured: docs/results.md, section Fit.
"""

_base_ = '../nuclei/_base_/yolox_nano_one_class.py'

load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
]
pack = dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
# A nucleus is 29 px wide (median), images are 696 x 520: they are tested as they are.
augment = [
    dict(
        type='RandomChoice',
        transforms=[[dict(type='Resize', scale_factor=tenths / 10, keep_ratio=True)] for tenths in range(8, 14)]),
    dict(type='RandomCrop', crop_size=(416, 416), allow_negative_crop=True),
    # Nuclei have no up and down.
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    # Slivers that a crop leaves of a nucleus.
    dict(type='FilterAnnotations', min_gt_bbox_wh=(6, 6), keep_empty=False),
    pack,
]
images = dict(
    _delete_=True,
    type='CocoDataset',
    data_root='data/bbbc039/',
    metainfo=dict(classes=('nucleus', ), palette=[(220, 20, 60)]),
    data_prefix=dict(img='images/'))

max_epochs = 12  # of 30 iterations with 4 crops
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    dataset=dict(images, ann_file='annotations/train.json', pipeline=load + augment))
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    dataset=dict(
        images,
        ann_file='annotations/val.json',
        test_mode=True,
        pipeline=[*load, dict(type='Resize', scale_factor=1.0, keep_ratio=True), pack]))
test_dataloader = val_dataloader
val_evaluator = dict(
    ann_file='data/bbbc039/annotations/val.json',
    proposal_nums=(100, 300, 1000))  # the last is how many boxes of an image count, COCO's 100 are too few
test_evaluator = val_evaluator

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(
        type='CosineAnnealingLR', eta_min=1e-5, begin=1, end=max_epochs, T_max=max_epochs - 1, by_epoch=True,
        convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(interval=max_epochs))
auto_scale_lr = dict(_delete_=True, base_batch_size=4)
