r"""A very small Faster R-CNN on shapes with handles, which half of the annotators include: a base for an energy head.

    python tools/study.py conventions configs/demo/two_conventions_base.py configs/demo/two_conventions_nceplus.py \
        --out work_dirs/two_conventions

The study draws the validation images, trains this detector and the heads, and writes the table of docs/results.md, Two
conventions. Hardware: one CPU core, some 80 seconds of processor time.

Each shape has a handle on one side, 0.7 to 0.9 times as long as the body, and for each object a fair coin tells whether
its box includes it. Both boxes overlap by more than 0.5, so a proposal is trained towards either, and for the L1 loss all
boxes between them are equally good. Network and schedule are those of shapes_faster_rcnn.py, stopped even earlier: there
is enough left to refine.
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
    extent=(20, 48),  # of the body; with its handle it is up to 91 px long
    conventions=2,
    handle_length=(0.7, 0.9))
train_dataloader = dict(
    sampler=dict(shuffle=False),  # no image comes twice
    dataset=dict(_delete_=True, **two_conventions, pipeline=flip_and_pack))
train_cfg = dict(max_iters=160, val_interval=160)  # the learning rate falls as if to 500
val_dataloader = dict(dataset=dict(data_root=data_root))
val_evaluator = dict(ann_file=data_root + 'annotations/val.json', conventions=True)
test_dataloader = dict(dataset=dict(data_root=data_root))
test_evaluator = dict(ann_file=data_root + 'annotations/val.json', conventions=True)
