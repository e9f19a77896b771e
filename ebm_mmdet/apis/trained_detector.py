"""Loads any detector of a config for prediction, and makes its input from an image file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from mmcv.transforms import Compose
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from torch import nn

from ..engine import CheckpointError

__all__ = ["image_pipeline", "load_detector"]


def load_detector(
    cfg: Config, checkpoint: str | Path | None, device: str | torch.device = "cpu"
) -> nn.Module:
    """Build ``cfg.model`` in eval mode, with the weights of a checkpoint.

    mmdet's ``init_detector`` does the same for models whose config has a ``backbone``, which a
    detector inside of another one has not.

    Args:
        cfg: config with ``model`` and ``test_dataloader.dataset``.
        checkpoint: file, URL, or None for the weights of the initialisation.
        device: of the model.

    Returns:
        The model. Its ``dataset_meta`` is that of the config's test data set, with entries of the
        checkpoint before it.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        CheckpointError: it cannot be read, lacks weights of the model, or has others.
    """
    init_default_scope(cfg.get("default_scope", "mmdet"))
    model = MODELS.build(copy.deepcopy(cfg.model))  # mmdet's detectors write into their config
    meta = _dataset_meta(cfg)
    if checkpoint is not None:
        try:
            loaded = load_checkpoint(model, str(checkpoint), map_location="cpu", strict=True)
        except RuntimeError as error:
            if "state_dict" not in str(error):
                raise
            raise CheckpointError(
                f"{checkpoint} does not fit the model of the config: {str(error).strip()}"
            ) from error
        kept = loaded.get("meta", {}).get("dataset_meta", {})
        meta |= {key.lower(): value for key, value in kept.items() if value}
    model.dataset_meta = meta
    return model.to(device).eval()


def image_pipeline(cfg: Config) -> Callable[[str | Path], dict]:
    """The function from the path of an image to one item of the config's test data set.

    It is the pipeline of ``test_dataloader.dataset`` on an image without annotations, so that a
    pipeline that loads annotations finds none. Data sets that make their images have no step that
    loads a file: one is put before the others, and then, if the data set's ``options`` have an
    ``image_size`` (height, width), a resize to it.
    """
    init_default_scope(cfg.get("default_scope", "mmdet"))
    dataset = _test_dataset(cfg)
    pipeline = copy.deepcopy(list(dataset.pipeline))
    if not any("LoadImage" in str(step["type"]) for step in pipeline):
        size = (dataset.get("options") or {}).get("image_size")
        resize = [dict(type="Resize", scale=tuple(size[::-1]), keep_ratio=False)] if size else []
        pipeline = [dict(type="LoadImageFromFile"), *resize, *pipeline]
    steps = Compose(pipeline)

    def load(path: str | Path, number: int = 0) -> dict:
        return steps(dict(img_path=str(path), img_id=number, instances=[]))

    return load


def _test_dataset(cfg: Config) -> dict:
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    return dataset


def _dataset_meta(cfg: Config) -> dict:
    """``metainfo`` of the test data set, without reading its files."""
    dataset = _test_dataset(cfg)
    cls = DATASETS.get(dataset.type) if isinstance(dataset.type, str) else dataset.type
    known = getattr(cls, "METAINFO", {}) | (dataset.get("metainfo") or {})
    return dict(known)
