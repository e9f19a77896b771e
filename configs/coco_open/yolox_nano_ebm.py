"""Energy head on the frozen COCO-trained YOLOX-nano, photographs under open licences: function and speed.

    python tools/train.py configs/coco_open/yolox_nano_ebm.py
    python tools/test.py configs/coco_open/yolox_nano_ebm.py work_dirs/yolox_nano_ebm/iter_400.pth

Data and weights: README.md of this folder. Hardware: 2 CPU cores. Expected: no gain. 85 photographs with 66 classes are
far too few to learn a density from: a head of this size knows them by heart (docs/results.md, section COCO
photographs). For a gain train on COCO itself with configs/ebm/yolox_nano_nceplus.py.
"""

_base_ = ['../ebm/yolox_nano_nceplus.py']

data_root = 'data/coco_open/'
load_from = 'checkpoints/yolox_nano_coco_mmdet.pth'

model = dict(
    energy_head=dict(
        fc_channels=[128, 128],  # narrower: less to learn by heart
        objective=dict(num_noise=31)),
    # A fifth of the length that suits nuclei: longer steps lose 1 to 4 AP here.
    refiner=dict(step_size=2e-5))

train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(data_root=data_root, ann_file='annotations/train.json', data_prefix=dict(img='images/')))
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    dataset=dict(data_root=data_root, ann_file='annotations/val.json', data_prefix=dict(img='images/')))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
# Read by tools/analysis_tools/fit_residual_prior.py and tools/study.py.
fit_dataset = dict(
    type='CocoDataset',
    data_root=data_root,
    ann_file='annotations/train.json',
    data_prefix=dict(img='images/'),
    test_mode=True,
    pipeline=_base_.test_pipeline)

max_iters = 400
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=max_iters, T_max=max_iters, eta_min=1e-5)
]
default_hooks = dict(checkpoint=dict(interval=200))
