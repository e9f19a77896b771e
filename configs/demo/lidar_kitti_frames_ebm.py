"""The energy head of lidar_ebm.py trained on a handful of real KITTI frames, on the detector trained on generated scenes.

    make demo3d                                                         # trains the detector
    python tools/dataset_converters/create_kitti_infos.py KITTI --out data/kitti_sample
    python tools/train.py configs/demo/lidar_kitti_frames_ebm.py
    python tools/study.py jittered configs/demo/lidar_kitti_frames_ebm.py work_dirs/lidar_kitti_frames_ebm/iter_200.pth

KITTI is a folder in KITTI's own layout with frames 000000, 000001, 000003, 000006, 000009 (ImageSets/train.txt) and 000005,
000008 (val.txt) of its training set. Hardware: 2 CPU cores, some minutes. Result: docs/results.md, section Real LiDAR frames.
Five frames with nine cars cannot train a detector, and AP of two frames means nothing. What they can show is whether f,
learned on some real cars, moves boxes towards other cars: the last command moves true boxes at random, and refinement moves them back.
"""

_base_ = ['./lidar_ebm.py']

work_dir = 'work_dirs/lidar_kitti_frames_ebm'
data_root = 'data/kitti_sample/'
load_from = f'work_dirs/demo3d/seed0/energy_head/iter_{_base_.head_iters}.pth'  # the head trained on generated cars
head_iters = 200

# All that a camera sees of KITTI's frames: of the fifteen cars only ten are within the 35 m of the generated scenes.
point_cloud_range = [0, -35.2, -3, 70.4, 35.2, 1]
model = dict(
    detector=dict(
        data_preprocessor=dict(
            voxel_layer=dict(point_cloud_range=point_cloud_range, max_num_points=32, max_voxels=(20000, 20000))),
        voxel_encoder=dict(point_cloud_range=point_cloud_range),
        middle_encoder=dict(output_shape=[352, 352]),
        bbox_head=dict(anchor_generator=dict(ranges=[[0, -35.2, -1.73, 70.4, 35.2, -1.73]]))),
    energy_head=dict(origin=point_cloud_range[:2]))

train_dataloader = dict(
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        _delete_=True,
        type='KittiDataset',
        data_root=data_root,
        ann_file='kitti_infos_train.pkl',
        data_prefix=dict(pts='training/velodyne_reduced'),
        metainfo=dict(classes=_base_.class_names),
        modality=dict(use_lidar=True, use_camera=False),
        box_type_3d='LiDAR',
        filter_empty_gt=True,
        pipeline=[
            dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=4, use_dim=4),
            dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
            # KITTI's own strength: without it nine cars are learned by heart.
            dict(type='RandomFlip3D', flip_ratio_bev_horizontal=0.5),
            dict(type='GlobalRotScaleTrans', rot_range=[-0.78539816, 0.78539816], scale_ratio_range=[0.95, 1.05]),
            dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
            dict(type='ObjectRangeFilter', point_cloud_range=point_cloud_range),
            dict(type='PointShuffle'),
            dict(type='Pack3DDetInputs', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d']),
        ]))
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        pipeline=[
            dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=4, use_dim=4),
            dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
            dict(type='Pack3DDetInputs', keys=['points']),
        ]))
val_evaluator = dict(ann_file=data_root + 'kitti_infos_val.pkl')
test_dataloader = val_dataloader
test_evaluator = val_evaluator

train_cfg = dict(max_iters=head_iters, val_interval=head_iters)
optim_wrapper = dict(optimizer=dict(lr=2e-4))  # a fifth: it is to adapt, not to begin again
param_scheduler = [
    dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=head_iters, T_max=head_iters, eta_min=1e-5)
]
