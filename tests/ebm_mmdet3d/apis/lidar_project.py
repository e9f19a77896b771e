"""A user's folder in 3D: a config of a small PointPillars, generated frames, and a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from dataset_converters.kitti_preparation import prepare_kitti
from dataset_converters.kitti_writer import write_kitti
from ebm_mmdet3d.datasets import SceneOptions

SCENE = dict(
    extent=(7, -6, 18, 6),
    num_vehicles=(2, 4),
    num_clutter=(1, 2),
    van_share=0.3,
    lidar=dict(num_beams=24, elevation=(-16, 2), azimuth_step=0.5, max_range=30),
)
CONFIG = """
_base_ = 'mmdet3d::pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-car.py'
place = [0, -7.68, -3, 19.2, 7.68, 1]
model = dict(
    data_preprocessor=dict(voxel_layer=dict(point_cloud_range=place, max_voxels=(2000, 2000))),
    voxel_encoder=dict(point_cloud_range=place, feat_channels=[8]),
    middle_encoder=dict(in_channels=8, output_shape=[96, 120]),
    backbone=dict(in_channels=8, layer_nums=[1, 1, 1], out_channels=[8, 8, 8]),
    neck=dict(in_channels=[8, 8, 8], out_channels=[8, 8, 8]),
    bbox_head=dict(
        in_channels=24, feat_channels=24, num_classes={classes},
        anchor_generator=dict(
            ranges=[[0, -7.68, -1.78, 19.2, 7.68, -1.78]] * {classes},
            sizes=[[3.9, 1.6, 1.56]] * {classes})),
    train_cfg=dict(_delete_=True, assigner=[dict(
        type='Max3DIoUAssigner', iou_calculator=dict(type='mmdet3d.BboxOverlapsNearest3D'),
        pos_iou_thr=0.6, neg_iou_thr=0.45, min_pos_iou=0.45, ignore_iof_thr=-1)] * {classes},
        allowed_border=0, pos_weight=-1, debug=False),
    test_cfg=dict(score_thr=0.0, max_num=6))
load = [dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=4, use_dim=4)]
data = dict(
    _delete_=True, type='KittiDataset', data_root='data',
    data_prefix=dict(pts='training/velodyne_reduced'),
    metainfo=dict(classes={names}), modality=dict(use_lidar=True, use_camera=False),
    box_type_3d='LiDAR')
train_dataloader = dict(num_workers=0, persistent_workers=False, batch_size=1, dataset=dict(
    data, ann_file='kitti_infos_train.pkl', pipeline=load + [
        dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
        dict(type='RandomFlip3D', flip_ratio_bev_horizontal=0.5),
        dict(type='PointsRangeFilter', point_cloud_range=place),
        dict(type='ObjectRangeFilter', point_cloud_range=place),
        dict(type='Pack3DDetInputs', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'])]))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    data, ann_file='kitti_infos_val.pkl', test_mode=True, pipeline=load + [
        dict(type='MultiScaleFlipAug3D', img_scale=(1333, 800), pts_scale_ratio=1, flip=False,
             transforms=[dict(type='PointsRangeFilter', point_cloud_range=place)]),
        dict(type='Pack3DDetInputs', keys=['points'])]))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/kitti_infos_val.pkl')
test_evaluator = val_evaluator
"""


def make_lidar_project(folder: Path, names: tuple[str, ...] = ("Car",), frames: int = 5) -> Path:
    """Write ``my_lidar.py``, ``epoch_40.pth`` and ``data/`` into a folder; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = {"train": frames, "val": 3}
    prepare_kitti(write_kitti(folder / "data", splits, 3, SceneOptions.from_config(SCENE)))
    text = CONFIG.replace("{classes}", str(len(names))).replace("{names}", repr(list(names)))
    (folder / "my_lidar.py").write_text(text)
    init_default_scope("mmdet3d")
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(folder / "my_lidar.py").model)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict(), meta=dict()), folder / "epoch_40.pth")
    return folder
