"""The mirror images that a detector and its head have learned from."""

from __future__ import annotations

from mmengine.config import Config

from ..models.flip_mean import FLIPS
from .config_text import type_name
from .inspection import inner_datasets

__all__ = ["flips_of"]


def flips_of(cfg: Config) -> tuple[str, ...]:
    """The flips of the training pipeline, and ``''``, the image as it is."""
    loader = cfg.get("train_dataloader")
    steps = []
    if loader:
        steps += loader["dataset"].get("pipeline") or []
        for inner in inner_datasets(loader["dataset"]):
            steps += inner.get("pipeline") or []
    directions: list[str] = []
    for step in steps:
        if type_name(step) == "RandomFlip":
            given = step.get("direction", "horizontal")
            directions += [given] if isinstance(given, str) else list(given)
    return ("", *(each for each in FLIPS if each in directions))
