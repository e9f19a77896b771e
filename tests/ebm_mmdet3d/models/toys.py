"""Small 3D detectors, heads and frames that the model tests share."""

from __future__ import annotations

import torch
from mmdet3d.models.detectors import Base3DDetector
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import nn

import ebm_mmdet3d.models  # noqa: F401  registers the models

ORIGIN, CELL, GRID = (0.0, -8.0), 0.4, (40, 48)
"""The toys' map: lower corner in metres, cell in metres, cells along (y, x)."""

SIGMAS = [
    [0.0625, 0.0625, 0.03125, 0.03125, 0.03125, 0.03125, 0.015625],
    [0.125, 0.125, 0.0625, 0.0625, 0.0625, 0.0625, 0.03125],
    [0.25, 0.25, 0.125, 0.125, 0.125, 0.125, 0.0625],
]
"""The paper's noise, (x, y, z, l, w, h, yaw): 1.25 times base sigmas."""

CAR = (3.9, 1.6, 1.56)


def noise_cfg(**overrides) -> dict:
    return {"type": "GaussianMixtureNoise", "sigmas": SIGMAS, **overrides}


def head_cfg(**overrides) -> dict:
    objective = dict(type="NCEObjective", num_noise=16, noise=noise_cfg())
    return {
        "type": "EBM3DRefineHead",
        "num_classes": 3,
        "in_channels": 8,
        "origin": ORIGIN,
        "cell_size": CELL,
        "fc_channels": [32, 32],
        "objective": objective,
        **overrides,
    }


def boxes(n: int, seed: int = 2) -> torch.Tensor:
    """(n, 7) cars inside the toys' map."""
    g = torch.Generator().manual_seed(seed)
    place = torch.rand(n, 2, generator=g) * torch.tensor([12.0, 10.0]) + torch.tensor([3.0, -5.0])
    z = torch.rand(n, 1, generator=g) - 2
    size = torch.tensor(CAR) * (0.8 + 0.4 * torch.rand(n, 3, generator=g))
    yaw = (torch.rand(n, 1, generator=g) * 2 - 1) * torch.pi
    return torch.cat((place, z, size, yaw), dim=1)


@MODELS.register_module(force=True)
class ToyBEVDetector(Base3DDetector):
    """Counts points per cell, convolves, and "detects" the boxes its data samples bring along."""

    def __init__(self, channels: int = 8, data_preprocessor=None):
        super().__init__(data_preprocessor or dict(type="Det3DDataPreprocessor"))
        self.neck = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels))

    def extract_feat(self, batch_inputs_dict):
        maps = []
        for points in batch_inputs_dict["points"]:
            column = ((points[:, 0] - ORIGIN[0]) / CELL).long().clamp(0, GRID[1] - 1)
            row = ((points[:, 1] - ORIGIN[1]) / CELL).long().clamp(0, GRID[0] - 1)
            count = torch.zeros(GRID).view(-1)
            count.index_add_(0, row * GRID[1] + column, torch.ones(len(points)))
            maps.append(count.view(1, *GRID))
        return self.neck(torch.stack(maps))

    def loss(self, batch_inputs_dict, batch_data_samples, **kwargs):
        return {"loss_toy": self.extract_feat(batch_inputs_dict).square().mean()}

    def _forward(self, batch_inputs_dict, batch_data_samples=None, **kwargs):
        return self.extract_feat(batch_inputs_dict)

    def predict(self, batch_inputs_dict, batch_data_samples, **kwargs):
        self.extract_feat(batch_inputs_dict)
        found = [sample.metainfo["toy_detections"].clone() for sample in batch_data_samples]
        return self.add_pred_to_datasample(batch_data_samples, found)


def detections(n: int, box_dim: int = 7, seed: int = 5) -> InstanceData:
    g = torch.Generator().manual_seed(seed)
    tensor = torch.cat((boxes(n, seed), torch.randn(n, box_dim - 7, generator=g)), dim=1)
    return InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(tensor, box_dim=box_dim),
        scores_3d=torch.rand(n, generator=g),
        labels_3d=torch.randint(0, 3, (n,), generator=g),
    )


def frame(
    num_points: int = 300,
    num_boxes: int = 2,
    box_dim: int = 7,
    num_features: int = 4,
    seed: int = 0,
):
    """Points (300, num_features), and a sample with ground truth and the toy's detections."""
    g = torch.Generator().manual_seed(seed)
    extent = torch.tensor([GRID[1] * CELL, GRID[0] * CELL, 3.0, *[1.0] * (num_features - 3)])
    lower = torch.tensor([*ORIGIN, -2.5, *[0.0] * (num_features - 3)])
    points = torch.rand(300, num_features, generator=g) * extent + lower
    sample = Det3DDataSample(metainfo=dict(box_type_3d=LiDARInstance3DBoxes))
    sample.set_metainfo(dict(toy_detections=detections(num_boxes + 1, box_dim, seed + 10)))
    gt = torch.cat((boxes(num_boxes, seed + 20), torch.zeros(num_boxes, box_dim - 7)), dim=1)
    sample.gt_instances_3d = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(gt, box_dim=box_dim), labels_3d=torch.arange(num_boxes) % 3
    )
    return points, sample


def batch(model, frames, training: bool = False) -> dict:
    """Preprocessed ``dict(inputs, data_samples)`` of ``frame(...)`` results."""
    points, samples = zip(*frames)
    data = {"inputs": {"points": list(points)}, "data_samples": list(samples)}
    return model.data_preprocessor(data, training)


def ebm_cfg(detector: dict | None = None, head: dict | None = None, **overrides) -> dict:
    return {
        "type": "EBM3DDetector",
        "detector": detector or dict(type="ToyBEVDetector"),
        "energy_head": head_cfg(**(head or {})),
        "refiner": dict(type="GradientAscentRefiner", step_size=[1e-3] * 7, num_steps=4),
        **overrides,
    }


def build(cfg: dict, seed: int = 0) -> nn.Module:
    """Build with initialised weights and an energy that is not flat."""
    init_default_scope("mmdet3d")
    torch.manual_seed(seed)
    model = MODELS.build(ConfigDict(cfg))
    model.init_weights()
    if hasattr(model, "energy_head"):
        nn.init.normal_(model.energy_head.fc_energy.weight, std=0.5)
    return model.eval()


def real_detector_cfg(name: str) -> ConfigDict:
    """mmdet3d's detector for cars, with few channels and a small range."""
    if name == "centerpoint":
        return _centerpoint_cfg()
    path = {
        "pointpillars": "pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-car.py",
        "second": "second/second_hv_secfpn_8xb6-80e_kitti-3d-car.py",
    }["second" if name == "sassd" else name]
    cfg = get_config(f"mmdet3d::{path}").model
    side = -REAL_HEAD[name]["origin"][1]
    extent = [0.0, -side, -3.0, 19.2, side, 1.0]
    cfg.data_preprocessor.voxel_layer.point_cloud_range = extent
    cfg.bbox_head.anchor_generator.ranges = [[0, -side, -1.78, 19.2, side, -1.78]]
    if name == "pointpillars":
        cfg.voxel_encoder.update(point_cloud_range=extent, feat_channels=[8])
        cfg.middle_encoder.update(in_channels=8, output_shape=[96, 120])
        cfg.backbone.update(in_channels=8, layer_nums=[1, 1, 1], out_channels=[8, 8, 8])
        cfg.neck.update(in_channels=[8, 8, 8], out_channels=[8, 8, 8])
        cfg.bbox_head.update(in_channels=24, feat_channels=24)
    else:
        cfg.middle_encoder.update(sparse_shape=[41, 320, 384], output_channels=16)
        cfg.backbone.update(in_channels=32, layer_nums=[1, 1], out_channels=[8, 16])
        cfg.neck.update(in_channels=[8, 16], out_channels=[12, 12])
        cfg.bbox_head.update(in_channels=24, feat_channels=24)
    if name == "sassd":
        cfg.type, cfg.middle_encoder.type = "SASSD", "SparseEncoderSASSD"
    cfg.test_cfg.update(score_thr=0.0, max_num=6)
    return cfg


def _centerpoint_cfg() -> ConfigDict:
    path = "centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py"
    cfg = get_config(f"mmdet3d::{path}").model
    extent = [0.0, -8.0, -3.0, 19.2, 8.0, 1.0]
    cfg.data_preprocessor.voxel_layer.point_cloud_range = extent
    cfg.pts_voxel_encoder.update(point_cloud_range=extent, feat_channels=[8])
    cfg.pts_middle_encoder.update(in_channels=8, output_shape=(80, 96))
    cfg.pts_backbone.update(in_channels=8, layer_nums=[1, 1, 1], out_channels=[8, 8, 8])
    cfg.pts_neck.update(in_channels=[8, 8, 8], out_channels=[8, 8, 8])
    head = cfg.pts_bbox_head
    head.update(
        in_channels=24, share_conv_channel=8, tasks=[dict(num_class=1, class_names=["car"])]
    )
    head.bbox_coder.update(pc_range=extent[:2], max_num=6, score_threshold=0.0)
    cfg.train_cfg.pts.update(point_cloud_range=extent, grid_size=[96, 80, 1])
    cfg.test_cfg.pts.update(pc_range=extent[:2], score_threshold=0.0)
    return cfg


REAL_HEAD = {
    name: dict(in_channels=24, num_classes=1, origin=(0.0, -side), cell_size=cell)
    for name, side, cell in (
        ("pointpillars", 7.68, 0.32),
        ("second", 8.0, 0.4),
        ("sassd", 8.0, 0.4),
        ("centerpoint", 8.0, 0.8),
    )
}
"""What the energy head needs to know of :func:`real_detector_cfg`."""
