"""Loads the detector of a config for prediction."""

from __future__ import annotations

import copy
import os

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from torch import nn

from ..engine import usable_device
from ..engine.stored_intervals import attach_stored_intervals, model_digest
from ..models.detectors import EBMDetector
from ..models.detectors.peculiarities import refuse_trackers
from .checkpoint_weights import (
    fit_weights,
    has_energy_head,
    load_weights,
    refuse_untrained_head,
)
from .config_data import dataset_meta, file_pipeline, image_pipeline
from .config_faults import building

__all__ = [
    "dataset_meta",
    "file_pipeline",
    "fit_weights",
    "has_energy_head",
    "image_pipeline",
    "load_detector",
    "load_frozen_detector",
    "load_weights",
    "read_config",
    "refuse_other_models",
    "refuse_untrained_head",
]


def load_detector(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike | None,
    device: str | torch.device | None = "cpu",
    cfg_options: dict | None = None,
    needs_head: bool = False,
) -> nn.Module:
    """Build the model of a config in eval mode, with the weights of a checkpoint, all of them.

    mmdet's ``inference_detector`` takes the result, as it takes that of mmdet's ``init_detector``.
    That function looks for a ``backbone`` in the model's config, which a detector inside of another
    one has not, and only prints what a checkpoint lacks.

    Args:
        config: file, name of a packaged one (``mmdet::NAME``), or config; it does not change.
        checkpoint: file, URL, or None for the weights of the initialisation.
        device: of the model; None: a GPU if there is one.
        cfg_options: values to merge into the config, by dotted names.
        needs_head: whether a checkpoint without an energy head is refused, see
            :func:`refuse_untrained_head`.

    Returns:
        The model. Its ``cfg`` is the config, and its ``dataset_meta`` that of the config's test
        data set, with entries of the checkpoint before it.

    Raises:
        FileNotFoundError: there is no such config or checkpoint.
        ValueError: there is no such device, or the config's model is absent or cannot be built.
        CheckpointError: the checkpoint cannot be read, lacks weights of the model, or has others.
    """
    device = usable_device(device)
    cfg = read_config(config)
    if cfg_options:
        cfg.merge_from_dict(cfg_options)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    with building("model"):
        model = MODELS.build(copy.deepcopy(cfg.model))  # mmdet's detectors write into their config
    meta = dataset_meta(cfg)
    if checkpoint is not None:
        loaded = load_weights(model, checkpoint)
        if needs_head:
            refuse_untrained_head(loaded.get("state_dict", loaded), checkpoint)
        attach_stored_intervals(model, loaded, model_digest(cfg))
        kept = loaded.get("meta", {}).get("dataset_meta", {})
        meta |= {key.lower(): value for key, value in kept.items() if value}
    model.cfg, model.dataset_meta = cfg, meta
    model.to(device).eval()  # not returned: mmdet's detectors with a teacher return nothing here
    return model


def load_frozen_detector(cfg: Config) -> EBMDetector:
    """:func:`load_detector` of an ``EBMDetector`` with its trained detector, ``cfg.load_from``.

    Raises:
        ValueError: the config does not describe an ``EBMDetector`` or names no checkpoint.
    """
    if cfg.model.type != "EBMDetector" or not cfg.get("load_from"):
        raise ValueError(
            f"model.type={cfg.model.type!r} with load_from={cfg.get('load_from')!r}; expected an "
            "EBMDetector and the checkpoint of its trained detector"
        )
    return load_detector(cfg, cfg.load_from)


def refuse_other_models(cfg: Config) -> None:
    """Refuse the config of a model that is no detector of images, before it is built.

    Raises:
        ValueError: it is one of videos, of numbers, or any other.
    """
    kind = cfg.model.get("type")
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    if not isinstance(kind, type):  # not registered, as building it will say
        return
    refuse_trackers(kind)
    if not issubclass(kind, BaseDetector):
        other = "another tool, made for it"
        if kind.__name__ == "ImageRegressor":
            other = "`python tools/test.py CONFIG CHECKPOINT --show-dir pictures`, which"
            other += " predicts numbers for the config's test data (docs/regression.md)"
        raise ValueError(
            f"model.type={kind.__name__!r} is no detector, and boxes can be predicted by a "
            f"detector alone (mmdet's BaseDetector); use {other}"
        )


def read_config(config: str | os.PathLike | Config) -> Config:
    """A copy of a config, or that of a file or of a packaged name (``mmdet::NAME``).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no model.
    """
    if isinstance(config, Config):
        cfg = copy.deepcopy(config)
    else:
        name = os.fspath(config)
        cfg = get_config(name) if "::" in name else Config.fromfile(name)
    if "model" not in cfg:
        raise ValueError(f"{cfg.filename or 'the config'} has no model; give a detector's config")
    return cfg
