"""SA-SSD for cars as its paper has it: every point a site, 320 channels, one scale, part-sensitive warping.

Numbers are those of the released code (He et al., CVPR 2020), unless a comment says otherwise. A recipe lists this file
among its bases and takes `_base_.pop('sassd_paper')`.
"""

sassd_paper = dict(
    type='SASSDPaper',
    data_preprocessor=dict(
        type='Det3DDataPreprocessor',
        voxel=True,
        voxel_type='dynamic',  # each point gets the index of its voxel, and none is dropped
        voxel_layer=dict(
            max_num_points=-1,
            max_voxels=(-1, -1),
            voxel_size=[0.05, 0.05, 0.1],
            point_cloud_range=[0, -40, -3, 70.4, 40, 1])),
    middle_encoder=dict(type='SASSDSparseEncoder', sparse_shape=[40, 1600, 1408], site='point'),
    backbone=dict(type='SASSDBEVNet', in_channels=320, channels=256),
    bbox_head=dict(
        type='SASSDHead',
        num_classes=1,
        in_channels=256,
        feat_channels=256,
        min_points=2,
        anchor_generator=dict(
            type='AlignedAnchor3DRangeGenerator',  # centres of cells: 0.2 + 0.4 i and -39.8 + 0.4 j
            ranges=[[0, -40, -1.78, 70.4, 40, -1.78]],
            sizes=[[3.9, 1.6, 1.56]],
            # 0 and 1.57 in KITTI's rotation_y, in this order: converted weights belong to these anchors.
            rotations=[-1.5707963, -3.1407963],
            reshape_out=True),
        diff_rad_by_sin=True,
        bbox_coder=dict(type='DeltaXYZWLHRBBoxCoder'),
        loss_cls=dict(type='mmdet.FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='mmdet.SmoothL1Loss', beta=1 / 9, loss_weight=2.0),
        loss_dir=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=False, loss_weight=0.2)),
    rescore_head=dict(type='PSWarpHead', in_channels=256, grid_size=[4, 7], pos_iou=0.7),
    auxiliary_head=dict(type='SASSDAuxiliaryHead', in_channels=160),
    train_cfg=dict(
        assigner=dict(
            type='Max3DIoUAssigner',
            iou_calculator=dict(type='BboxOverlapsNearest3D'),
            pos_iou_thr=0.6,
            neg_iou_thr=0.45,
            # The best anchor of a car counts, however little it overlaps: the released config has min_pos_iou=0.45,
            # which its code does not read.
            min_pos_iou=1e-3,
            ignore_iof_thr=-1),
        allowed_border=0,
        pos_weight=-1,
        guide_thr=0.1,
        debug=False),
    test_cfg=dict(guide_thr=0.1, score_thr=0.3, nms_thr=0.1))
