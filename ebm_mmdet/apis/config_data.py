"""The test data of a config, for images of a user: pipeline and class names."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

from mmcv.transforms import Compose
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from .config_text import type_name
from .inspection import inner_datasets

__all__ = ["dataset_meta", "file_pipeline", "image_pipeline"]


def image_pipeline(cfg: Config) -> Callable[[str | Path], dict]:
    """The function from the path of an image to one item of the config's test data set.

    It is the pipeline of :func:`file_pipeline` on an image without annotations, so that a pipeline
    that loads annotations finds none.
    """
    init_default_scope(cfg.get("default_scope", "mmdet"))
    steps = Compose(file_pipeline(cfg))

    def load(path: str | Path, number: int = 0) -> dict:
        return steps(dict(img_path=str(path), img_id=number, instances=[]))

    return load


def file_pipeline(cfg: Config) -> list[dict]:
    """Config of the pipeline of ``test_dataloader.dataset``, for image files.

    Of several data sets it is that of the first; without a ``test_dataloader`` that of the
    ``val_dataloader``.

    Data sets that make their images have no step that loads a file: one is put before the others,
    and then, if the data set's ``options`` have an ``image_size`` (height, width), a resize to it.

    Raises:
        ValueError: the config has neither.
    """
    dataset = _test_dataset(cfg)
    if dataset is None:
        raise ValueError(
            f"{cfg.filename or 'the config'} has no test_dataloader, whose pipeline reads images; "
            "add one"
        )
    pipeline = copy.deepcopy(list(dataset.pipeline))
    if not any("LoadImage" in type_name(step) for step in pipeline):
        size = (dataset.get("options") or {}).get("image_size")
        resize = [dict(type="Resize", scale=tuple(size[::-1]), keep_ratio=False)] if size else []
        pipeline = [dict(type="LoadImageFromFile"), *resize, *pipeline]
    return pipeline


def _test_dataset(cfg: Config) -> dict | None:
    """Config of the first data set inside that of the test, or of the validation."""
    loader = cfg.get("test_dataloader") or cfg.get("val_dataloader")
    return inner_datasets(loader["dataset"])[0] if loader else None


def dataset_meta(cfg: Config) -> dict:
    """``metainfo`` of the test data set, without reading its files; empty if there is none."""
    dataset = _test_dataset(cfg)
    if dataset is None:
        return {}
    cls = DATASETS.get(dataset.type) if isinstance(dataset.type, str) else dataset.type
    known = getattr(cls, "METAINFO", {}) | (dataset.get("metainfo") or {})
    return dict(known)
