"""Small versions of mmdet's detectors, and energy heads that are told nothing of their maps."""

from __future__ import annotations

from functools import cache

import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.registry import init_default_scope

from tests.ebm_mmdet.models.toys import ebm_cfg

LEVELS = ("in_channels", "strides", "feature_levels", "finest_scale")


def without_levels(cfg: dict) -> dict:
    head = {key: value for key, value in cfg["energy_head"].items() if key not in LEVELS}
    return {**cfg, "energy_head": head}


@cache
def zoo(path: str) -> Config:
    return get_config(f"mmdet::{path}")


def small(path: str) -> ConfigDict:
    """The model of mmdet's config with a small ResNet, or as it is where it has another one."""
    cfg = ConfigDict(zoo(path).model.to_dict())
    if cfg.get("backbone", {}).get("type") == "ResNet":
        cfg.backbone.update(depth=18, base_channels=8, init_cfg=None, frozen_stages=-1)
        neck = cfg.get("neck")
        if neck and neck.get("type") == "FPN":
            used = len(neck.in_channels)
            neck.in_channels = [8, 16, 32, 64][-used:]
    return cfg


def wrapped(detector, **overrides) -> dict:
    cfg = without_levels(ebm_cfg())
    return {**cfg, "detector": detector, **overrides}


def make(cfg: dict) -> torch.nn.Module:
    init_default_scope("mmdet")
    torch.manual_seed(0)
    return MODELS.build(cfg).eval()


def predict(model, data, **kwargs):
    with torch.no_grad():
        return model.predict(data["inputs"], data["data_samples"], **kwargs)
