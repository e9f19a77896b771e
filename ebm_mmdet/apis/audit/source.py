"""The detector of an audit with an energy head, and where its images are."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ...engine import read_checkpoint
from ...models.detectors import EBMDetector
from ..energy_config import add_energy_head
from ..inspection import classes_of, inner_datasets
from ..trained_detector import load_detector

__all__ = ["Source", "image_folder", "load_source"]


@dataclass(frozen=True)
class Source:
    """What an audit gets its features and its f from."""

    cfg: Config
    """Of the ``EBMDetector``."""
    model: EBMDetector
    has_head: bool
    """Whether the checkpoint has a trained energy head."""
    classes: tuple[str, ...]


def load_source(cfg: Config, checkpoint: str | os.PathLike, device: str | None) -> Source:
    """Load an ``EBMDetector``, or a plain detector, which gets the head of ``add_energy_head``.

    Raises:
        ValueError: the config has no training settings for a head, or is that of a 3D detector.
        FileNotFoundError: there is no such checkpoint.
        CheckpointError: it does not fit the config.
    """
    if str(cfg.get("default_scope")) == "mmdet3d":
        raise ValueError("this is the config of a 3D detector; audit looks at boxes in images")
    init_default_scope(cfg.get("default_scope") or "mmdet")
    device = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    wrapped = str(cfg.get("model", {}).get("type", "")).endswith("EBMDetector")
    loaded = load_detector(cfg, checkpoint, device)
    meta = loaded.dataset_meta
    # A plain checkpoint loads into an EBMDetector too, and leaves its head untrained.
    state = read_checkpoint(checkpoint)
    has_head = wrapped and any(key.startswith("energy_head.") for key in state["state_dict"])
    if not wrapped:
        cfg = add_energy_head(cfg, checkpoint)
        plain, loaded = loaded, MODELS.build(copy.deepcopy(cfg.model)).to(device).eval()
        loaded.detector.load_state_dict(plain.state_dict())
        loaded.dataset_meta = meta
    classes = meta.get("classes") or classes_of(cfg) or ()
    classes = (classes,) if isinstance(classes, str) else tuple(classes)
    return Source(cfg, loaded, has_head, classes)


def image_folder(cfg: Config, names: list[str]) -> Path:
    """The folder of one of the config's data sets that has the first of some images.

    Args:
        cfg: the detector's config.
        names: ``file_name`` of images.

    Raises:
        FileNotFoundError: none has; the message names the option.
    """
    tried = []
    for split in ("train", "val", "test"):
        loader = cfg.get(f"{split}_dataloader")
        for dataset in inner_datasets(loader["dataset"]) if loader else []:
            prefix = dataset.get("data_prefix") or {}
            folder = Path(dataset.get("data_root") or "", prefix.get("img") or "")
            tried.append(folder)
            if any((folder / name).is_file() for name in names[:100]):
                return folder
    raise FileNotFoundError(
        f"{names[0] if names else 'no image'} is in none of the config's folders "
        f"({', '.join(dict.fromkeys(map(str, tried))) or 'it names none'}); give --images"
    )
