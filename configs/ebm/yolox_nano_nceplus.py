"""YOLOX-nano with a small energy head trained by NCE+, on COCO; also trains on the CPU of a laptop.

    tools/dist_train.sh configs/ebm/yolox_nano_nceplus.py 8 --cfg-options load_from=YOLOX_NANO.pth        # 8 x 8 images
    tools/dist_test.sh  configs/ebm/yolox_nano_nceplus.py CKPT 8 --eval bbox

mmdet publishes the config of YOLOX-nano without weights, so you have to give load_from: weights with the key names of
mmdet, converted from the release of the YOLOX authors or trained with mmdet::yolox/yolox_nano_8xb8-300e_coco.py.

Hardware: any 8 GPUs; with fewer, add --auto-scale-lr. Data: COCO in data/coco, as mmdet lays it out. The small head is
explained in _base_/ebm_recipe.py.

Expected: not published anywhere and not trained on COCO here.
"""

_base_ = ['mmdet::yolox/yolox_nano_8xb8-300e_coco.py', '../_base_/ebm_recipe.py']

custom_imports = dict(imports=['ebm_mmdet'], allow_failed_imports=False)

_base_.model.data_preprocessor.batch_augments = None  # one image size, the one that is tested

model = dict(
    _delete_=True,
    type='EBMDetector',
    backbone=dict(),  # not read; mmdet's init_detector looks for it
    clip_boxes='all',  # YOLOX does not clip; clipping alone would count as a gain
    detector=_base_.model,
    energy_head=dict(_base_.ebm.small_head, in_channels=64),
    refiner=_base_.ebm.small_refiner)  # candidates: the final detections of YOLOX

# Resized and padded as in the test.
train_pipeline = [
    *_base_.ebm.small_load,
    dict(type='Resize', scale=(416, 416), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0))),
    dict(type='PackDetInputs')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

_base_.merge(_base_.pop('ebm').small_training)
