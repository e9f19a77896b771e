"""Counting nuclei on crops of BBBC039: 200 fluorescence images with exact masks (CC0), 20 crops of 128 pixels each.

120 images are for training, 40 for testing: 2,400 and 800 crops of 0 to 15 nuclei, shrunk to 64 x 64 pixels. A nucleus
belongs to the crop of its centre. Division by image, never by crop. Annotations in COCO format, images in images/.
"""

_base_ = ['./demo.py']

model = dict(
    # Whole numbers stand for intervals of length 1: a density at points has no largest likelihood.
    head=dict(codec=dict(ranges=[(0.0, 20.0)], dequantise=True)))

dataset = dict(
    type='CropCountDataset',
    data_root='data/bbbc039/',
    ann_file='annotations/train.json',
    max_count=20,
    crop_size=128,
    output_size=64,
    metainfo=dict(target=dict(names=('count', ), units=('nuclei', ))),
    pipeline=[
        dict(type='RandomFlipTarget', prob=0.5),
        dict(type='RandomLight'),
        dict(type='PackRegressionInputs'),
    ])
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(
    dataset=dict(
        dataset, ann_file='annotations/val.json', test_mode=True, pipeline=[dict(type='PackRegressionInputs')]))
test_dataloader = val_dataloader
val_evaluator = [dict(type='RegressionMetric', cs=[1]), dict(type='ProbabilisticRegressionMetric')]
test_evaluator = val_evaluator

max_epochs = 17  # of 75 steps: about as many as the demo's generated images have
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=max_epochs, T_max=max_epochs,
         convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(interval=10))
