"""Small detectors and batches that the model tests share."""

from __future__ import annotations

from functools import cache

import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.registry import init_default_scope

import ebm_mmdet  # noqa: F401  registers the models

NUM_CLASSES = 3


@cache
def _mmdet_model(name: str) -> ConfigDict:
    return get_config(f"mmdet::{name}").model


def detector_cfg(name: str) -> ConfigDict:
    """A small detector with 16-channel features and three classes: faster_rcnn, retinanet, ..."""
    small_resnet = dict(depth=18, base_channels=8, init_cfg=None, frozen_stages=-1)
    fpn = dict(in_channels=[8, 16, 32, 64], out_channels=16)
    if name == "faster_rcnn":
        cfg = ConfigDict(_mmdet_model("faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"))
        cfg.backbone.update(small_resnet)
        cfg.neck.update(fpn)
        cfg.rpn_head.update(in_channels=16, feat_channels=16)
        cfg.roi_head.bbox_roi_extractor.out_channels = 16
        cfg.roi_head.bbox_head.update(in_channels=16, fc_out_channels=32, num_classes=NUM_CLASSES)
        cfg.test_cfg.rcnn.score_thr = 0.0
    elif name in ("retinanet", "fcos"):
        path = {
            "retinanet": "retinanet/retinanet_r50_fpn_1x_coco.py",
            "fcos": "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
        }[name]
        cfg = ConfigDict(_mmdet_model(path))
        cfg.backbone.update(small_resnet)
        cfg.neck.update(fpn)
        cfg.bbox_head.update(in_channels=16, feat_channels=32, num_classes=NUM_CLASSES)
        cfg.test_cfg.score_thr = 0.0
    else:
        raise KeyError(name)
    return ConfigDict(cfg.to_dict())


def energy_head_cfg(**overrides) -> dict:
    noise = dict(type="GaussianMixtureNoise", sigmas=[0.075, 0.15, 0.3], dim=4)
    return {
        "type": "EBMBBoxHead",
        "num_classes": NUM_CLASSES,
        "in_channels": 16,
        "fc_channels": [32, 32],
        "objective": dict(type="NCEObjective", num_noise=15, beta=0.1, noise=noise),
        **overrides,
    }


def ebm_cfg(name: str = "faster_rcnn", head: dict | None = None, **overrides) -> dict:
    head = head or {}
    if name in ("retinanet", "fcos"):
        head = dict(strides=[8, 16, 32], feature_levels=[0, 1, 2], finest_scale=112, **head)
    return {
        "type": "EBMDetector",
        "detector": detector_cfg(name),
        "energy_head": energy_head_cfg(**head),
        "refiner": dict(type="GradientAscentRefiner", step_size=1e-2, num_steps=4),
        **overrides,
    }


def build(cfg: dict, seed: int = 0) -> torch.nn.Module:
    """Build with initialised weights and an energy that is not flat."""
    init_default_scope("mmdet")
    torch.manual_seed(seed)
    model = MODELS.build(cfg)
    model.init_weights()
    if hasattr(model, "energy_head"):
        torch.nn.init.normal_(model.energy_head.fc_energy.weight, std=0.5)
    return model.eval()


def batch(model, num_items=(2, 3), training: bool = False, shape=(3, 128, 160)) -> dict:
    """Preprocessed ``dict(inputs, data_samples)`` of ``len(num_items)`` random images."""
    raw = demo_mm_inputs(
        len(num_items), [shape] * len(num_items), num_items=list(num_items), num_classes=NUM_CLASSES
    )
    return model.data_preprocessor(raw, training)
