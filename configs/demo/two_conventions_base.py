"""A very small Faster R-CNN on shapes with handles, which half of the annotators include: a base for an energy head.

    python tools/study.py conventions configs/demo/two_conventions_nceplus.py --out work_dirs/two_conventions

The study draws the validation images, trains this detector and the heads, and writes the table of docs/results.md, Two
conventions. Hardware: one CPU core, some four minutes for the detector.

Each shape has a handle on one side, 1.2 to 1.6 times as long as the body, and for each object a fair coin tells whether
its box includes it. So a box in the middle has an IoU below 0.75 with either. Network and schedule are those of
shapes_faster_rcnn.py. Its box losses are L1, as in mmdet's Faster R-CNN, and their optimum is in the middle; a loss on
IoU has its optimum at either end.
"""

_base_ = ['./shapes_faster_rcnn.py']

work_dir = 'work_dirs/two_conventions/detector'

data_root = 'work_dirs/two_conventions/data/'
flip_and_pack = [
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs', meta_keys=_base_.meta_keys),
]
two_conventions = dict(
    type='ShapesDataset',
    seed=1,
    image_size=(_base_.image_size, _base_.image_size),
    num_shapes=(2, 5),  # two fewer than without handles, which take space
    extent=(20, 44),  # of the body; with its handle it is up to 114 px long
    conventions=2,
    handle_length=(1.2, 1.6))
train_dataloader = dict(
    sampler=dict(shuffle=False),  # no image comes twice
    dataset=dict(_delete_=True, **two_conventions, pipeline=flip_and_pack))
val_dataloader = dict(dataset=dict(data_root=data_root))
val_evaluator = dict(ann_file=data_root + 'annotations/val.json', conventions=True)
test_dataloader = dict(dataset=dict(data_root=data_root))
test_evaluator = dict(ann_file=data_root + 'annotations/val.json', conventions=True)
