"""SA-SSD of few channels on a small range, and frames with cars whose points share voxels."""

from __future__ import annotations

from pathlib import Path

import torch
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData

ROOT = Path(__file__).parents[3]

RANGE = [0.0, -6.4, -3.0, 12.8, 6.4, 1.0]
VOXEL = [0.05, 0.05, 0.1]
CELLS = 256
"""Voxels along x and y."""


def sassd_cfg(site: str = "point", **overrides) -> ConfigDict:
    """The recipe's model with fewer channels and less range; the rest is the recipe's."""
    cfg = Config.fromfile(ROOT / "configs/ebm3d/sassd_paper_car_kitti.py").model
    cfg.data_preprocessor.voxel_layer.point_cloud_range = RANGE
    cfg.middle_encoder.update(
        sparse_shape=[40, CELLS, CELLS], stem_channels=4, stage_channels=(8, 12, 12), site=site
    )
    cfg.middle_encoder.out_channels = 6
    cfg.backbone.update(in_channels=30, channels=24)
    cfg.bbox_head.update(in_channels=24, feat_channels=24)
    cfg.bbox_head.anchor_generator.ranges = [[0, -6.4, -1.78, 12.8, 6.4, -1.78]]
    cfg.rescore_head.in_channels = 24
    cfg.auxiliary_head.in_channels = 32
    for name, value in overrides.items():
        cfg[name] = value
    return cfg


def car_frame(boxes: torch.Tensor, seed: int = 0, ground: int = 400, per_car: int = 120):
    """Points (P, 4) on the ground and on cars, and a data sample with those cars.

    Args:
        boxes: (n, 7).
        seed: of the points.
        ground: points on the ground.
        per_car: points on a car.
    """
    g = torch.Generator().manual_seed(seed)
    low, high = torch.tensor(RANGE[:3]), torch.tensor(RANGE[3:])
    floor = low + (high - low) * torch.rand(ground, 3, generator=g)
    floor[:, 2] = -1.7 + 0.02 * torch.randn(ground, generator=g)
    points = [floor]
    for x, y, z, length, width, height, yaw in boxes.tolist():
        local = torch.rand(per_car, 3, generator=g) - 0.5
        side = torch.randint(0, 2, (per_car,), generator=g)
        local[torch.arange(per_car), side] = local[torch.arange(per_car), side].sign() * 0.49
        local = local * torch.tensor([length, width, height])
        yaw = torch.tensor(yaw)
        turned = torch.stack(
            (
                x + local[:, 0] * yaw.cos() - local[:, 1] * yaw.sin(),
                y + local[:, 0] * yaw.sin() + local[:, 1] * yaw.cos(),
                z + height / 2 + local[:, 2],
            ),
            dim=1,
        )
        points.append(turned)
    points = torch.cat(points)
    points = torch.cat((points, points[:: max(len(points) // 50, 1)] + 1e-4))  # shared voxels
    points = torch.cat((points, torch.rand(len(points), 1, generator=g)), dim=1)
    sample = Det3DDataSample(metainfo=dict(box_type_3d=LiDARInstance3DBoxes))
    sample.gt_instances_3d = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(boxes), labels_3d=torch.zeros(len(boxes), dtype=torch.long)
    )
    return points, sample


CARS = torch.tensor([[4.0, 2.0, -1.7, 3.9, 1.6, 1.5, 0.1], [8.5, -2.5, -1.7, 4.1, 1.7, 1.6, -1.5]])
