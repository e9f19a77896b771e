"""Loads the trained detector of a config."""

from __future__ import annotations

import copy

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner import load_checkpoint

from ..models.detectors import EBMDetector

__all__ = ["load_frozen_detector"]


def load_frozen_detector(cfg: Config) -> EBMDetector:
    """Build ``cfg.model`` and load ``cfg.load_from`` into it.

    Raises:
        ValueError: the config does not describe an ``EBMDetector`` or names no checkpoint.
    """
    if cfg.model.type != "EBMDetector" or not cfg.get("load_from"):
        raise ValueError(
            f"model.type={cfg.model.type!r} with load_from={cfg.get('load_from')!r}; expected an "
            "EBMDetector and the checkpoint of its trained detector"
        )
    detector = MODELS.build(copy.deepcopy(cfg.model))  # mmdet's detectors write into their config
    load_checkpoint(detector, cfg.load_from, map_location="cpu")
    return detector.eval()
