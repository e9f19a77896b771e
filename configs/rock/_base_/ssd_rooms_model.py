"""A small SSD for generated rooms of 96 x 128, trained from scratch.

A recipe lists this file among its bases and imports `ebm_mmdet`. The plain detector is `model` as it is. With the block,
it lists `rock_rooms_block.py` too, and

    model = dict(_delete_=True, type='ROCKDetector', detector=_base_.model, block=_base_.pop('block'))

A training step of 8 images takes 0.12 s of one core, 0.14 s with the block. What is not explained here is as in ssd_r50_nyuv2_model.py.
"""

model = dict(
    type='SingleStageDetector',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[110.0, 110.0, 110.0], std=[55.0, 55.0, 55.0], pad_size_divisor=8),
    backbone=dict(
        type='ResNet',
        depth=18,
        # Three stages, and wider ones instead of a fourth: small things need channels where the map is still large. After
        # 750 iterations AP50 was 9.2, and 6.2 with four stages of 12 to 96 channels.
        num_stages=3,
        base_channels=24,  # ResNet-18 has 64
        stem_channels=24,
        # Stride 8, and not 16: an object is a fifth as large in pixels as on NYUv2, and the map would be 6 x 8.
        strides=(1, 2, 1),
        dilations=(1, 1, 1),
        out_indices=(2, ),
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,  # from scratch: batch norms must learn
        init_cfg=dict(type='Kaiming', layer='Conv2d')),
    neck=dict(
        type='SSDLevels',
        in_channels=96,
        # 12 x 16 is followed by 6 x 8, 3 x 4, 2 x 2 and 1 x 1.
        mid_channels=(48, 32, 32, 32),
        out_channels=(96, 64, 64, 64),
        input_size=(96, 128),
        stride=8),
    bbox_head=dict(
        type='ROCKSSDHead',
        num_classes=11,
        in_channels=(96, 96, 64, 64, 64),
        loc_weight=1.0,  # with the reference's 6, boxes leave nothing for classes when training starts from scratch
        anchor_generator=dict(
            type='FractionSSDAnchorGenerator',
            input_size=(96, 128),
            scales=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87),
            ratios=((2, ), (2, 3), (2, 3), (2, 3), (2, )))),
    train_cfg=dict(
        assigner=dict(
            # Lower than 0.5 and 0.4, for more positives: AP50 6.2 instead of 3.1 after 750 iterations.
            type='MaxIoUAssigner', pos_iou_thr=0.4, neg_iou_thr=0.3, min_pos_iou=1e-6, gt_max_assign_all=False),
        smoothl1_beta=1.0),
    test_cfg=dict(
        score_thr=0.05,
        max_per_class=200,
        nms=dict(type='nms', iou_threshold=0.3),
        min_bbox_size=0,
        max_per_img=100))
