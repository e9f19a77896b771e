"""The detector of an audit with an energy head, and where its images are."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ...engine import read_checkpoint, usable_device
from ...models.detectors import EBMDetector
from ...models.pixels import network_pixels
from ..box_file import box_fault
from ..energy_config import add_energy_head
from ..image_index import listed_images, look_at
from ..inspection import classes_of, inner_datasets
from ..trained_detector import has_energy_head, image_pipeline, load_detector

__all__ = ["Source", "image_folder", "load_source", "usual_size", "without_classes"]


@dataclass(frozen=True)
class Source:
    """What an audit gets its features and its f from."""

    cfg: Config
    """Of the ``EBMDetector``."""
    model: EBMDetector
    has_head: bool
    """Whether the checkpoint has a trained energy head."""
    classes: tuple[str, ...]


def load_source(
    cfg: Config,
    checkpoint: str | os.PathLike,
    device: str | None,
    object_size: float | None = None,
    enlarge: int = 1,
) -> Source:
    """Load an ``EBMDetector``, or a plain detector, which gets the head of ``add_energy_head``.

    Args:
        cfg: the config.
        checkpoint: of either; that of a plain detector fits an ``EBMDetector`` too.
        device: ``'cpu'``, ``'cuda:0'``; by default a GPU if there is one.
        object_size: usual side of an object in pixels of the network's input; small ones are read
            from finer maps.
        enlarge: factor by which images are enlarged for the head that a plain detector gets.

    Raises:
        ValueError: there is no such device, the config has no training settings for a head, is that
            of a 3D detector, or has a head, whose ``enlarge`` is its own.
        FileNotFoundError: there is no such checkpoint.
        CheckpointError: it does not fit the config.
    """
    if str(cfg.get("default_scope")) == "mmdet3d":
        raise ValueError("this is the config of a 3D detector; audit looks at boxes in images")
    init_default_scope(cfg.get("default_scope") or "mmdet")
    device = usable_device(device)
    wrapped = str(cfg.get("model", {}).get("type", "")).endswith("EBMDetector")
    if wrapped and enlarge != 1:
        raise ValueError(
            f"enlarge={enlarge}, but the config has an energy head, with "
            f"model.enlarge={cfg.model.get('enlarge', 1)}; give the config of the detector alone, "
            "or leave enlarge out"
        )
    loaded = load_detector(cfg, checkpoint, device)
    meta = loaded.dataset_meta
    state = read_checkpoint(checkpoint)
    has_head = wrapped and has_energy_head(state.get("state_dict", state))
    if not wrapped:
        cfg = add_energy_head(cfg, checkpoint, object_size=object_size, enlarge=enlarge)
        plain, loaded = loaded, MODELS.build(copy.deepcopy(cfg.model)).to(device).eval()
        loaded.detector.load_state_dict(plain.state_dict())
        loaded.dataset_meta = meta
    classes = meta.get("classes") or classes_of(cfg) or ()
    classes = (classes,) if isinstance(classes, str) else tuple(classes)
    return Source(cfg, loaded, has_head, classes)


def without_classes(source: Source, folds: int) -> None:
    """Let the heads that are trained have one f for all classes; changes the config in place.

    Args:
        source: the detector.
        folds: of the audit; with 0 a trained head of the checkpoint judges.

    Raises:
        ValueError: the head of the checkpoint is to judge, and has one for each class.
    """
    head = source.model.energy_head
    if folds == 0 and source.has_head and not head.class_agnostic and head.num_classes > 1:
        raise ValueError(
            f"class_blind, and the head of the checkpoint has one f for each of {head.num_classes} "
            "classes; train one with class_agnostic=True, or give --folds 2 or more, for which "
            "heads are trained"
        )
    source.cfg.model.energy_head.class_agnostic = True


def usual_size(cfg: Config, content: Mapping, folder: Path) -> float | None:
    """Median side of the annotated objects in pixels of the network's input.

    The scale is that of the first image that can be loaded; None if there is none, or no box.
    """
    sides = [
        math.sqrt(row["bbox"][2] * row["bbox"][3])
        for row in content.get("annotations", ())
        if isinstance(row, Mapping)
        and box_fault(row.get("bbox")) is None
        and not row.get("iscrowd")
    ]
    load = image_pipeline(cfg)
    for image in listed_images(content, folder).values() if sides else ():
        if look_at(image)[1] is None:
            scale = network_pixels(load(image.path)["data_samples"], torch.device("cpu"))
            return float(np.median(sides)) * math.sqrt(float(scale[0] * scale[1]))
    return None


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
