"""ROCK's SSD with an energy head trained by NCE+ on the block's output, on NYUv2.

    tools/dist_train.sh configs/rock/rock_ssd_r50_nyuv2_nceplus.py 1        # 1 GPU x 8 images
    tools/dist_test.sh  configs/rock/rock_ssd_r50_nyuv2_nceplus.py CKPT 1 --eval bbox

Hardware: one GPU with 8 GB. Data: NYUv2 in data/nyuv2, by tools/dataset_converters/nyuv2.py. The detector is trained first, by
rock_ssd_r50_480x640_30k_nyuv2.py, or converted (tools/model_converters/rock_to_ebm_mmdet.py); it stays as it is, and its
scene, depth and normals are predicted as before. The small head is explained in configs/_base_/ebm_recipe.py.

Expected: not published anywhere and not trained here.
"""

_base_ = ['./rock_ssd_r50_480x640_30k_nyuv2.py', '../_base_/ebm_recipe.py']

load_from = 'work_dirs/rock_ssd_r50_480x640_30k_nyuv2/iter_30000.pth'
_base_.model.detector.backbone.init_cfg = None  # load_from holds the backbone too

model = dict(
    _delete_=True,
    type='EBMDetector',
    backbone=dict(),  # not read; mmdet's init_detector looks for it
    detector=_base_.model,
    # The first level of the SSD is the block's output, 30 x 40 at stride 16.
    feature_source='detector.neck',
    energy_head=dict(
        _base_.ebm.small_head, num_classes=19, in_channels=2048, strides=[16], feature_levels=[0]),
    refiner=_base_.ebm.small_refiner)  # candidates: the final detections of the SSD

# A new head on features that are there: 6,000 iterations are 60 epochs, a fifth of the detector's.
train_cfg = dict(max_iters=6000, val_interval=2000)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=False, milestones=[4000, 5000], gamma=0.1),
]

_base_.pop('ebm')
