"""RTMDet-tiny with a small energy head trained by NCE+, on COCO.

    tools/dist_train.sh configs/ebm/rtmdet_tiny_nceplus.py 8        # 8 GPUs x 8 images
    tools/dist_test.sh  configs/ebm/rtmdet_tiny_nceplus.py CKPT 8 --eval bbox

Hardware: any 8 GPUs with 8 GB; with fewer, add --auto-scale-lr. Data: COCO in data/coco, as mmdet lays it out. The
small head is explained in _base_/ebm_recipe.py.

Expected: not published anywhere and not trained here.
"""

_base_ = ['mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', '../_base_/ebm_recipe.py']

custom_imports = dict(imports=['ebm_mmdet'], allow_failed_imports=False)

load_from = 'https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet_tiny_8xb32-300e_coco/rtmdet_tiny_8xb32-300e_coco_20220902_112414-78e30dcc.pth'  # noqa
_base_.model.backbone.init_cfg = None  # load_from holds the backbone too

model = dict(
    _delete_=True,
    type='EBMDetector',
    backbone=dict(),  # not read; mmdet's init_detector looks for it
    clip_boxes='all',  # RTMDet clips to the padded image; clipping alone would count as a gain
    detector=_base_.model,
    energy_head=dict(_base_.ebm.small_head, in_channels=96),
    refiner=_base_.ebm.small_refiner)  # candidates: the final detections of RTMDet

# Resized and padded as in the test.
train_pipeline = [
    *_base_.ebm.small_load,
    dict(type='Resize', scale=(640, 640), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Pad', size=(640, 640), pad_val=dict(img=(114, 114, 114))),
    dict(type='PackDetInputs')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

_base_.merge(_base_.pop('ebm').small_training)
