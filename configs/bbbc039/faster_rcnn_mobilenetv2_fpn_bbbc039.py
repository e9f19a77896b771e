"""A two-stage detector of nuclei of U2OS cells: Faster R-CNN with MobileNetV2-FPN, from ImageNet weights.

    python tools/train.py configs/bbbc039/faster_rcnn_mobilenetv2_fpn_bbbc039.py

Data and weights: README.md of this folder. Hardware: 2 CPU cores. Backbone, neck and box head are those of
configs/nuclei/faster_rcnn_mobilenetv2_fpn_nuclei.py, images are as large as they come, and three times as many boxes count.
Expected: 79.5 AP, 58.1 AP90 (docs/results.md, section Two stages and a cascade).
"""

_base_ = ['../nuclei/faster_rcnn_mobilenetv2_fpn_nuclei.py', './_base_/bbbc039_dataset.py']

data_root = 'data/bbbc039/'

model = dict(
    # Nine of ten nuclei are 14 to 38 px wide: anchors of 24, 48, ... px.
    rpn_head=dict(anchor_generator=dict(scales=[3])),
    # An image has up to 230 nuclei, and a crop some 40.
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=1000, max_per_img=500),
        rcnn=dict(sampler=dict(num=256))),
    test_cfg=dict(
        rpn=dict(nms_pre=1000, max_per_img=500),
        rcnn=dict(max_per_img=300)))

train_dataset = _base_.bbbc039.train_dataset
train_dataset.pipeline[3].crop_size = (320, 320)  # of 416: a step takes half the time
train_dataloader = dict(dataset=dict(_delete_=True, **train_dataset))
val_dataloader = dict(dataset=dict(_delete_=True, **_base_.bbbc039.val_dataset))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=_base_.bbbc039.val_annotations, max_dets=300)
test_evaluator = val_evaluator

# Of two crops. The loss, a mean over 50 iterations, was 0.45 at 450 and 0.37 to 0.38 from 850 on.
max_iters = 900
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR', eta_min=1e-5, begin=50, end=max_iters, T_max=max_iters - 50, by_epoch=False),
]
_base_.pop('bbbc039')
del train_dataset
