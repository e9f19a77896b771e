"""The SSD of ROCK's reference implementation on a dilated ResNet-50, for 480 x 640 and NYUv2's 19 classes.

A recipe lists this file among its bases and imports `ebm_mmdet`. The plain detector (the reference's `--no_rock`) is
`model` as it is; with the block,

    model = dict(_delete_=True, type='ROCKDetector', detector=_base_.model, block=dict(type='ROCKBlock'))

41.9 million parameters, 49.3 million with the block. Numbers are the reference implementation's unless a comment says
otherwise.
"""

model = dict(
    type='SingleStageDetector',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=16),
    backbone=dict(
        # As mmdet's ResNet, but the first block of stage 4 is not dilated: that of the reference, and of its checkpoints.
        type='TorchvisionDilatedResNet',
        depth=50,
        strides=(1, 2, 2, 1),
        dilations=(1, 1, 1, 2),
        out_indices=(3, ),
        frozen_stages=-1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=True,  # statistics are ImageNet's for ever; weights and biases are trained
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    neck=dict(
        type='SSDLevels',
        in_channels=2048,
        mid_channels=(1024, 256, 128, 128, 128),
        out_channels=(1024, 512, 256, 256, 256),
        input_size=(480, 640)),
    bbox_head=dict(
        type='ROCKSSDHead',
        num_classes=19,
        in_channels=(2048, 1024, 512, 256, 256, 256),
        loc_weight=6.0,  # the paper: 3
        # Boxes may reach beyond the image, as the reference's do, in NMS and in evaluation.
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2], clip_border=False),
        anchor_generator=dict(
            type='FractionSSDAnchorGenerator',
            input_size=(480, 640),
            scales=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),  # of the image's sides
            ratios=((2, ), (2, 3), (2, 3), (2, 3), (2, ), (2, )))),
    train_cfg=dict(
        assigner=dict(
            type='MaxIoUAssigner',
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,  # between the two a prior is in neither loss
            # A box has its best prior, whatever their IoU; but not a prior that it does not touch, as with 0.
            min_pos_iou=1e-6,
            gt_max_assign_all=False),
        smoothl1_beta=1.0),
    test_cfg=dict(
        score_thr=0.05,
        max_per_class=200,
        nms=dict(type='nms', iou_threshold=0.3),
        min_bbox_size=0,
        max_per_img=100))
