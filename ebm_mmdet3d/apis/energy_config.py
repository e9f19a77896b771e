"""From the config of a detector of mmdet3d to that of the same one with an energy head."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from torch import Tensor

from ebm_mmdet.apis.config_file import write_over
from ebm_mmdet.apis.config_text import Inherited, Noted, type_name
from ebm_mmdet.apis.energy_config import check_plain, put_over, quieten, settings_around
from ebm_mmdet.apis.head_settings import schedule

from ..inspection import Inspection3D, inspect_config_3d
from .head_settings import bev_head

__all__ = ["add_energy_head_3d", "refuse_2d", "write_energy_config_3d"]


def add_energy_head_3d(
    cfg: Config,
    checkpoint: str | os.PathLike | None = None,
    max_iters: int = 10000,
    residuals: Tensor | None = None,
    bottom_and_height: Sequence[float] | None = None,
) -> Config:
    """The config of the same detector, frozen, with an energy head that is trained.

    Which map the head reads is found by running the detector on random points
    (:func:`~ebm_mmdet3d.inspection.inspect_config_3d`). Data, batch size and augmentation are the
    detector's, and the rest of the config stays.

    Args:
        cfg: config of a detector of mmdet3d that sees LiDAR points from above; it does not change.
        checkpoint: its checkpoint, which becomes ``load_from``.
        max_iters: length of the training.
        residuals: (n, 7) of the detector's boxes, along, across, z, l, w, h, yaw in metres and
            radians. Noise and steps are scaled to their spread, and the head learns a regression;
            without them, or with fewer than 20, noise and steps are the paper's, which are for
            cars.
        bottom_and_height: usual z at the bottom and height of the objects in metres, which the head
            then sees in units of the noise.

    Raises:
        ValueError: the config is not one of mmdet3d, the detector gives no map seen from above, is
            an ``EBM3DDetector`` already, there is no training data, or ``max_iters`` is below 1.
        RuntimeError: the detector does not run here on random points.
    """
    cfg = copy.deepcopy(cfg)
    if checkpoint is None:
        checkpoint = cfg.get("load_from")
    _, settings = _changes(cfg, checkpoint, max_iters, None, residuals, bottom_and_height)
    return put_over(cfg, settings)


def write_energy_config_3d(
    config: str | os.PathLike,
    checkpoint: str | os.PathLike,
    out: str | os.PathLike | None = None,
    max_iters: int = 10000,
    tuned: Mapping | None = None,
    residuals: Tensor | None = None,
    bottom_and_height: Sequence[float] | None = None,
) -> Path:
    """Write the config of :func:`add_energy_head_3d`, inheriting from the detector's, as a file.

    Args:
        config: the detector's config file, or the name of a packaged one, ``mmdet3d::...``.
        checkpoint: its checkpoint.
        out: the file to write; by default ``NAME_ebm.py`` beside a config ``NAME.py``, and in the
            current folder for a packaged one.
        max_iters: length of the training.
        tuned: settings of the ``EBM3DDetector`` in place of the usual ones, such as ``refiner``.
        residuals: see :func:`add_energy_head_3d`.
        bottom_and_height: likewise.

    Returns:
        The path of the file.

    Raises:
        FileExistsError: the file exists; it is never overwritten.
        FileNotFoundError: there is no such config.
        ValueError: see :func:`add_energy_head_3d`; or the config is in mmengine's new style.
    """

    def changes(cfg: Config):
        about = residuals, bottom_and_height
        look, settings = _changes(cfg, os.fspath(checkpoint), max_iters, tuned, *about)
        prelude = ["detector = _base_.model", *quieten(copy.deepcopy(cfg.model))]
        return look.detector, prelude, settings

    return write_over(config, out, ["ebm_mmdet", "ebm_mmdet3d"], changes)


def refuse_2d(cfg: Config) -> None:
    """Raise ``ValueError`` for a config that is not one of mmdet3d."""
    if str(cfg.get("default_scope")) != "mmdet3d":
        raise ValueError(
            f"default_scope={cfg.get('default_scope')!r}, so this is not the config of a detector "
            "of mmdet3d; for one of mmdet there is ebm_mmdet.apis"
        )


def _changes(
    cfg: Config,
    checkpoint: str | os.PathLike | None,
    max_iters: int,
    tuned: Mapping | None,
    residuals: Tensor | None,
    bottom_and_height: Sequence[float] | None,
) -> tuple[Inspection3D, dict]:
    """What the detector looks like, and the settings to put over its config."""
    refuse_2d(cfg)
    check_plain(cfg, "EBM3DDetector", max_iters)
    look = inspect_config_3d(cfg)
    if look.num_classes is None:
        raise ValueError(f"{look.detector} has no head with num_classes; write the config by hand")
    settings = {
        "load_from": None if checkpoint is None else os.fspath(checkpoint),
        "model": {
            "_delete_": True,
            "type": "EBM3DDetector",
            "detector": Inherited(cfg.model, "detector"),
            **bev_head(look, residuals, bottom_and_height),
            **(tuned or {}),
        },
        **schedule(look, max_iters),
        "train_dataloader": {
            "sampler": {"_delete_": True, "type": "InfiniteSampler", "shuffle": True}
        },
        **settings_around(cfg),
    }
    settings["train_cfg"]["max_iters"] = Noted(
        max_iters, "of the head alone; the paper takes 148480 on KITTI"
    )
    for split in ("val", "test"):
        metric = cfg.get(f"{split}_evaluator")
        given = isinstance(metric, Mapping) and metric.get("type")
        if given and type_name(metric) == "KittiMetric":
            settings[f"{split}_evaluator"] = Noted(
                {"type": "EBMKittiMetric"}, "KittiMetric without a GPU, and AP at IoU 0.7 to 0.9"
            )
    return look, settings
