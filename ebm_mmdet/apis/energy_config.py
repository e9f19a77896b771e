"""From a detector's config to that of the same detector with an energy head."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config
from torch import Tensor

from .config_file import write_over
from .config_text import Inherited, Noted, plain, type_name
from .head_settings import papers_head, schedule, small_head
from .inspection import Inspection, inner_datasets, inspect_config
from .residual_spread import residual_spread
from .whole_images import mixes_images, whole_image_dataset

__all__ = [
    "add_energy_head",
    "check_plain",
    "put_over",
    "quieten",
    "refuse_3d",
    "settings_around",
    "write_energy_config",
]

HOOKS_OF_THE_DETECTOR = (
    "EMAHook",
    "MeanTeacherHook",
    "PipelineSwitchHook",
    "SyncNormHook",
    "YOLOXModeSwitchHook",
)
"""Hooks for the training of a detector, which is not trained here."""


def add_energy_head(
    cfg: Config,
    checkpoint: str | os.PathLike | None = None,
    max_iters: int = 10000,
    object_size: float | None = None,
    max_dets: int | None = None,
    residuals: Tensor | None = None,
    enlarge: int = 1,
) -> Config:
    """The config of the same detector, frozen, with an energy head that is trained.

    Which maps the head reads is found by running the detector on one image, as its test reads it
    (:func:`~ebm_mmdet.apis.inspect_config`); a warning says so if one is there that cannot be run.
    A two-stage detector with shared fully connected layers gets the papers' head, and its trunk
    starts from these layers, unless finer maps suit the objects better; any other gets the small
    head on all maps at once. The data, batch size and augmentation are the detector's, except that
    images are not mixed (mosaics). The rest of the config stays.

    Args:
        cfg: the detector's config; it does not change.
        checkpoint: its checkpoint, which becomes ``load_from``.
        max_iters: length of the training.
        object_size: usual side of an object in pixels of the network's input; small ones are read
            on finer maps of the backbone as well.
        max_dets: boxes of an image and class that count in the evaluation, if not COCO's 100.
        residuals: (n, 4) of the detector's boxes on annotated images, from
            :func:`~ebm_mmdet.apis.detector_residuals`. Noise and steps are scaled to their spread
            (:func:`~ebm_mmdet.apis.residual_spread`); without them, or with fewer than 20, they
            are the usual ones.
        enlarge: factor by which images are enlarged for the head (``EBMDetector``).

    Raises:
        ValueError: the model predicts no boxes, is an ``EBMDetector`` already, there is no
            training data that the head could learn from, ``max_iters`` is below 1, or
            ``residuals`` are not (n, 4).
        RuntimeError: the detector does not run here, on a blank image either.
    """
    cfg = copy.deepcopy(cfg)
    if checkpoint is None:
        checkpoint = cfg.get("load_from")
    about = object_size, max_dets, residuals, enlarge
    _, settings = _changes(cfg, checkpoint, max_iters, None, *about)
    return put_over(cfg, settings)


def write_energy_config(
    config: str | os.PathLike,
    checkpoint: str | os.PathLike,
    out: str | os.PathLike | None = None,
    max_iters: int = 10000,
    tuned: Mapping | None = None,
    object_size: float | None = None,
    max_dets: int | None = None,
    residuals: Tensor | None = None,
    enlarge: int = 1,
) -> Path:
    """Write the config of :func:`add_energy_head`, inheriting from the detector's, as a file.

    Args:
        config: the detector's config file, or the name of a packaged one, ``mmdet::...``.
        checkpoint: its checkpoint.
        out: the file to write; by default ``NAME_ebm.py`` beside a config ``NAME.py``, and in the
            current folder for a packaged one.
        max_iters: length of the training.
        tuned: settings of the ``EBMDetector`` in place of the usual ones, such as ``refiner``.
        object_size: see :func:`add_energy_head`.
        max_dets: likewise.
        residuals: likewise.
        enlarge: likewise.

    Returns:
        The path of the file.

    Raises:
        FileExistsError: the file exists; it is never overwritten.
        FileNotFoundError: there is no such config.
        ValueError: see :func:`add_energy_head`; or the config is in mmengine's new style (Python
            imports), which a text config cannot inherit from.
    """

    def changes(cfg: Config):
        about = object_size, max_dets, residuals, enlarge
        look, settings = _changes(cfg, os.fspath(checkpoint), max_iters, tuned, *about)
        prelude = ["detector = _base_.model", *quieten(copy.deepcopy(cfg.model))]
        return look.detector, prelude, settings

    return write_over(config, out, ["ebm_mmdet"], changes)


def refuse_3d(cfg: Config) -> None:
    """Raise ``ValueError`` for the config of a detector of mmdet3d."""
    if str(cfg.get("default_scope")) == "mmdet3d":
        raise ValueError(
            "this is the config of a detector of mmdet3d, for which there is ebm_mmdet3d.apis; "
            "the commands of `python -m ebm_mmdet` choose by themselves"
        )


def put_over(cfg: Config, settings: Mapping) -> Config:
    """The config of a detector with the settings of a wrapper over it, in place."""
    quieten(cfg.model)
    cfg.merge_from_dict(plain({**settings, "model": {**settings["model"], "detector": cfg.model}}))
    return cfg


def check_plain(cfg: Config, wrapper: str, max_iters: int) -> None:
    """Raise ``ValueError`` unless a config is of a plain detector that has data to train on.

    Args:
        cfg: the config.
        wrapper: class name of the wrapper of such detectors.
        max_iters: length of the training, also checked.
    """
    if str(cfg.get("model", {}).get("type", "")).endswith(wrapper):
        raise ValueError(
            f"the config describes an {wrapper} already; give that of a plain detector"
        )
    if max_iters < 1:
        raise ValueError(f"max_iters={max_iters}; give 1 or more")
    if not cfg.get("train_dataloader"):
        raise ValueError(
            f"{cfg.filename or 'the config'} has no train_dataloader, so there is nothing that an "
            "energy head could learn from; add the training data to it"
        )


def quieten(model: Mapping) -> list[str]:
    """Change the detector's config for a frozen detector; returns the same as lines of a config."""
    lines = []
    preprocessor, backbone = model.get("data_preprocessor"), model.get("backbone")
    if preprocessor and preprocessor.get("batch_augments"):
        preprocessor["batch_augments"] = None
        lines.append("detector.data_preprocessor.batch_augments = None  # one image size")
    if backbone and (backbone.get("init_cfg") or {}):
        backbone["init_cfg"] = None
        lines.append("detector.backbone.init_cfg = None  # load_from holds the backbone too")
    return lines


def _changes(
    cfg: Config,
    checkpoint: str | None,
    max_iters: int,
    tuned: Mapping | None,
    object_size: float | None,
    max_dets: int | None,
    residuals: Tensor | None,
    enlarge: int,
) -> tuple[Inspection, dict]:
    """What the detector looks like, and the settings to put over its config."""
    refuse_3d(cfg)
    check_plain(cfg, "EBMDetector", max_iters)
    spread = None if residuals is None else residual_spread(residuals)
    test = cfg.get("test_dataloader") or cfg.get("val_dataloader")
    test_pipeline = (inner_datasets(test["dataset"])[0].get("pipeline") or []) if test else []
    dataset = cfg.train_dataloader["dataset"]
    whole = plain(whole_image_dataset(dataset, test_pipeline))  # first: it may refuse the data
    look = inspect_config(cfg, object_size, enlarge)
    for fault in look.image_faults:
        said = f"{fault}; the detector's maps are those of another image: {look.image}"
        warnings.warn(said, stacklevel=3)
    if look.num_classes is None:
        raise ValueError(f"{look.detector} has no head with num_classes; write the config by hand")
    settings = {
        "load_from": None if checkpoint is None else os.fspath(checkpoint),
        "model": {
            "_delete_": True,
            "type": "EBMDetector",
            "backbone": Noted({}, "not read; lets mmdet's init_detector load this file"),
            "detector": Inherited(cfg.model, "detector"),
            **(papers_head(look, spread) if look.trunk else small_head(look, spread)),
            **(tuned or {}),
        },
        **schedule(look, max_iters),
    }
    settings["train_dataloader"] = {
        "sampler": {"_delete_": True, "type": "InfiniteSampler", "shuffle": True}
    }
    if mixes_images(dataset):
        settings["train_dataloader"]["dataset"] = Noted(
            {"_delete_": True, **whole},
            "whole images, without what mixes several of them",
        )
    settings.update(settings_around(cfg, max_dets))
    return look, settings


def settings_around(cfg: Config, max_dets: int | None = None) -> dict:
    """Hooks, evaluators and other settings that have to change with the model."""
    settings = {}
    hooks = cfg.get("custom_hooks") or []
    kept = [hook for hook in hooks if type_name(hook) not in HOOKS_OF_THE_DETECTOR]
    if len(kept) < len(hooks):
        comment = "those of the detector's training are left out"
        settings["custom_hooks"] = Noted(plain(kept), comment)
    most = {} if max_dets is None else {"max_dets": Noted(max_dets, "images have many")}
    ours, comment = {"type": "HighIoUCocoMetric", **most}, "CocoMetric, and AP at 0.6 to 0.9"
    for split in ("val", "test"):
        metric = cfg.get(f"{split}_evaluator")
        if isinstance(metric, Mapping) and _is_coco(metric):
            settings[f"{split}_evaluator"] = Noted(ours, comment)
        elif isinstance(metric, (list, tuple)) and any(map(_is_coco, metric)):
            # A list takes the place of the one in the base config.
            settings[f"{split}_evaluator"] = Noted(
                [{**plain(each), **ours} if _is_coco(each) else plain(each) for each in metric],
                comment,
            )
    if (cfg.get("auto_scale_lr") or {}).get("enable"):
        settings["auto_scale_lr"] = Noted({"enable": False}, "the learning rate is not for a batch")
    if cfg.get("resume"):
        settings["resume"] = False
    if cfg.get("work_dir"):
        settings["work_dir"] = f"{str(cfg.work_dir).rstrip('/')}_ebm"
    return settings


def _is_coco(metric: object) -> bool:
    """Whether this is the config of mmdet's ``CocoMetric``."""
    known = isinstance(metric, Mapping) and metric.get("type")
    return bool(known) and type_name(metric) == "CocoMetric"
