"""A very small PointPillars, trained from scratch on generated LiDAR scenes and stopped early on purpose.

    make demo3d                                            # generates the data, runs this and lidar_ebm.py
    python tools/train.py configs/demo/lidar_base.py       # this alone, on the validation scenes of `make demo3d`

Hardware: 2 CPU cores, about seven minutes. Result and spread: docs/results.md, section Demo in 3D.
Every number that is not PointPillars' own (KITTI, cars) says where it comes from.
"""

custom_imports = dict(imports=['ebm_mmdet', 'ebm_mmdet3d'], allow_failed_imports=False)
default_scope = 'mmdet3d'
work_dir = 'work_dirs/demo3d/seed0/detector'

data_root = 'work_dirs/demo3d/data/'
class_names = ['Car']
# A quarter of KITTI's area: at 35 m a car still has some tens of points.
point_cloud_range = [0, -17.6, -3, 35.2, 17.6, 1]
voxel_size = [0.2, 0.2, 4]  # 176 x 176 pillars, a map of 88 x 88 cells of 0.4 m
batch_size = 4
max_iters = 1000  # stopped early on purpose: a detector trained to the end leaves less to refine

# What the generator draws (ebm_mmdet3d.datasets.SceneOptions). The sensor has half the beams that see something, and
# two thirds of the columns, of the generator's own.
scene = dict(
    extent=(7, -16, 34, 16),
    num_vehicles=(4, 10),
    num_clutter=(6, 14),
    van_share=0.1,
    lidar=dict(num_beams=40, elevation=(-16, 2), azimuth=(-42, 42), azimuth_step=0.25, max_range=60))

model = dict(
    type='VoxelNet',
    data_preprocessor=dict(
        type='Det3DDataPreprocessor',
        voxel=True,
        voxel_layer=dict(
            max_num_points=12,  # 32 would be mostly padding at this density
            point_cloud_range=point_cloud_range,
            voxel_size=voxel_size,
            max_voxels=(8000, 8000))),
    voxel_encoder=dict(
        type='PillarFeatureNet',
        in_channels=4,
        feat_channels=[32],
        with_distance=False,
        voxel_size=voxel_size,
        point_cloud_range=point_cloud_range),
    middle_encoder=dict(type='PointPillarsScatter', in_channels=32, output_shape=[176, 176]),
    backbone=dict(
        type='SECOND',
        in_channels=32,
        layer_nums=[2, 3, 3],
        layer_strides=[2, 2, 2],
        out_channels=[32, 48, 64]),
    neck=dict(type='SECONDFPN', in_channels=[32, 48, 64], upsample_strides=[1, 2, 4], out_channels=[32, 32, 32]),
    bbox_head=dict(
        type='Anchor3DHead',
        num_classes=1,
        in_channels=96,
        feat_channels=96,
        use_direction_classifier=True,
        assign_per_class=True,
        anchor_generator=dict(
            type='AlignedAnchor3DRangeGenerator',
            ranges=[[0, -17.6, -1.73, 35.2, 17.6, -1.73]],
            sizes=[[4.2, 1.7, 1.55]],  # the mean of the generator's cars
            rotations=[0, 1.57],
            reshape_out=True),
        diff_rad_by_sin=True,
        bbox_coder=dict(type='DeltaXYZWLHRBBoxCoder'),
        loss_cls=dict(type='mmdet.FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='mmdet.SmoothL1Loss', beta=1.0 / 9.0, loss_weight=2.0),
        loss_dir=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=False, loss_weight=0.2)),
    train_cfg=dict(
        assigner=dict(
            type='Max3DIoUAssigner',
            iou_calculator=dict(type='BboxOverlapsNearest3D'),
            pos_iou_thr=0.6,
            neg_iou_thr=0.45,
            min_pos_iou=0.45,
            ignore_iof_thr=-1),
        allowed_border=0,
        pos_weight=-1,
        debug=False),
    test_cfg=dict(
        use_rotate_nms=True, nms_across_levels=False, nms_thr=0.05, score_thr=0.1, min_bbox_size=0, nms_pre=100,
        max_num=30))

augment_and_pack = [
    # The sensor looks forwards: turning by more than some degrees would show what it never sees.
    dict(type='RandomFlip3D', flip_ratio_bev_horizontal=0.5),
    dict(type='GlobalRotScaleTrans', rot_range=[-0.1, 0.1], scale_ratio_range=[0.98, 1.02]),
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ObjectRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='PointShuffle'),
    dict(type='Pack3DDetInputs', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d']),
]
# No scene comes twice, so nothing can be learned by heart.
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=1,  # makes scenes while the other core learns
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=False),
    dataset=dict(
        type='LidarScenesDataset',
        seed=1000,  # not that of the fixed set
        scene=scene,
        min_points=5,  # the least that KITTI's object database accepts
        pipeline=[
            # As the paper: vans are cars in training, and do not count in the evaluation.
            dict(type='MergeClasses3D', classes=['Car', 'Van'], into=dict(Van='Car')),
            *augment_and_pack,
        ]))
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='KittiDataset',
        data_root=data_root,
        ann_file='kitti_infos_val.pkl',
        data_prefix=dict(pts='training/velodyne_reduced'),
        metainfo=dict(classes=class_names),
        modality=dict(use_lidar=True, use_camera=False),
        box_type_3d='LiDAR',
        test_mode=True,
        pipeline=[
            dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=4, use_dim=4),
            dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
            dict(type='Pack3DDetInputs', keys=['points']),
        ]))
val_evaluator = dict(type='EBMKittiMetric', ann_file=data_root + 'kitti_infos_val.pkl')
test_dataloader = val_dataloader
test_evaluator = val_evaluator

train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=10, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=40),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=40, end=max_iters, T_max=max_iters - 40, eta_min=2e-4),
]
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=20),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=100, max_keep_ckpts=1, backend_args=dict(backend='atomic')),
    sampler_seed=dict(type='DistSamplerSeedHook'))
log_processor = dict(type='LogProcessor', by_epoch=False, window_size=20)
log_level = 'INFO'
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='gloo'))
randomness = dict(seed=0)
load_from = None
resume = False
