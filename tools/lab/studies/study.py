"""The refinement study: one detector, several heads, several rivals, one table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import DATASETS
from mmengine.config import Config
from torch import Tensor

from ebm_mmdet.apis.feature_cache import cache_test_images
from ebm_mmdet.apis.residuals import detector_residuals
from ebm_mmdet.apis.trained_detector import load_frozen_detector
from ebm_mmdet.apis.training_flips import flips_of
from ebm_mmdet.datasets import CheckedCOCO, use_checked_annotations
from ebm_mmdet.energy import fit_residual_std
from ebm_mmdet.evaluation.average_precision import MatchedDetections
from ebm_mmdet.evaluation.bootstrap import bootstrap_weights, resample
from ebm_mmdet.files import differing_keys, read_json, write_json
from ebm_mmdet.models.detectors import EBMDetector

from ..study_arguments import RIVALS
from .heads import TrainedHeads, training_views
from .kl_voting import every_box, nms_of
from .limits import detections_per_image, limit_warnings, wrapper_and_detector
from .methods import ENERGY, KL, L1, Method, apply, study_methods
from .report import make_row, metric_cell, over_best, statistic, write_report
from .study_file import StudyFileError, folder_name

__all__ = [
    "StudySettings",
    "claim",
    "claim_folder",
    "hash_recipe",
    "load_frozen_detector",
    "make_row",
    "metric_cell",
    "over_best",
    "residual_prior",
    "run_study",
    "statistic",
]


@dataclass(frozen=True)
class StudySettings:
    """The settings of a study; stored with its results."""

    seeds: tuple[int, ...] = (0, 1, 2)
    rounds: int = 12
    """Number of augmented versions of every training image to cache."""
    boxes_per_iteration: int = 32
    prior_k: float = 0.125
    resamples: int = 1000
    rivals: tuple[str, ...] = RIVALS
    """Kinds of heads to compare with: L1, KL-Loss."""
    methods: tuple[str, ...] = ()
    """Rows of a refinement study besides the first: those whose names contain one of these texts.
    Empty for all."""


def run_study(
    cfg: Config, out: Path, settings: StudySettings, say: Callable[[str], None] = print
) -> dict:
    """Train what is missing, evaluate all rows, write ``results.json`` and ``results.csv``.

    Heads and detections are kept in ``out`` and used again by the next call, so that an
    interrupted study can be continued.

    Args:
        cfg: config of an ``EBMDetector`` with ``load_from``, the recipe of its head, and
            ``fit_dataset`` (training images with the test's pipeline, for the prior).
        out: folder of this study.
        settings: see :class:`StudySettings`.
        say: receives one line per step.

    Returns:
        The content of ``results.json``: ``rows`` (a dict each), ``residual_std``, ``settings``, ...

    Raises:
        FileExistsError: ``out`` has a study with other settings.
    """
    claim_folder(out, cfg, settings)
    use_checked_annotations()
    detector = load_frozen_detector(cfg)
    std, shift = residual_prior(cfg, detector, out / "prior.json", say)
    say("detecting on the test images")
    test_set = DATASETS.build(cfg.val_dataloader.dataset)
    truth = CheckedCOCO(test_set.ann_file)
    most = detections_per_image(cfg)
    for warning in limit_warnings(wrapper_and_detector(cfg), truth, test_set.cat_ids, most):
        say(warning)
    votes = KL in settings.rivals and nms_of(detector.detector) is not None
    flips = flips_of(cfg)[1:]
    images = cache_test_images(
        detector, test_set, most, every_box(detector) if votes else None, flips
    )
    views = training_views(cfg, detector, settings.rounds, say)
    heads = TrainedHeads(cfg, detector, out / "heads", views, settings.boxes_per_iteration, say)
    methods = study_methods(
        cfg.model.refiner,
        std,
        shift,
        settings.prior_k,
        len(settings.seeds) > 1,
        regresses=cfg.model.energy_head.get("regression") is not None,
        flips=flips,
    )
    # A detector without suppression has no neighbours that could vote.
    methods = _chosen([method for method in methods if votes or not method.votes], settings)
    # Before the first row, so that an interrupted study keeps all training.
    for seed in settings.seeds:
        for kind in (ENERGY, *settings.rivals):
            heads.get(kind, seed)
    weights = bootstrap_weights(len(truth.imgs), settings.resamples)
    rows, l1_rows, base = [], [], None
    for method in methods:
        runs, times, training = [], [], []
        for group in _groups(method, settings.seeds):
            chosen = [heads.get(method.head, seed) for seed in group if method.head]
            training += [trained.seconds for trained in chosen]
            path = out / "rows" / f"{folder_name(method.name)}_{'_'.join(map(str, group))}.json"
            stored = read_json(path)
            if stored is None or stored["ann_file"] != test_set.ann_file:
                records, seconds = apply(
                    method,
                    detector,
                    images,
                    [trained.head for trained in chosen],
                    test_set.cat_ids,
                    most,
                )
                stored = dict(ann_file=test_set.ann_file, seconds=seconds, records=records)
                write_json(path, stored)
            times.append(stored["seconds"])
            runs.append(MatchedDetections(truth, stored["records"], most))
        measured = resample(statistic(runs), weights)
        base = base or measured
        rows.append(make_row(method, base, measured, runs, training, times))
        if method.head == L1:
            l1_rows.append(measured)
        elif method.head == ENERGY and l1_rows:
            rows[-1] |= over_best(l1_rows, measured)
        say("  ".join(f"{key} {value}" for key, value in rows[-1].items() if value is not None))
    return write_report(
        out,
        settings,
        rows,
        residual_std=std.tolist(),
        residual_median=shift.tolist(),
        max_dets=most,
        detection_ms_per_image=round(1e3 * float(np.median([i.seconds for i in images])), 1),
    )


def _chosen(methods: Sequence[Method], settings: StudySettings) -> list[Method]:
    """The first row, and those that the settings ask for.

    Raises:
        StudyFileError: one of ``settings.methods`` is in no name.
    """
    heads = (None, ENERGY, *settings.rivals)
    known = [method for method in methods if method.head in heads]
    for text in settings.methods:
        if not any(text in method.name for method in known):
            names = "; ".join(method.name for method in known)
            raise StudyFileError(f"--methods {text!r} is in no row's name; the rows are: {names}")
    asked = settings.methods or ("",)
    return [known[0], *(m for m in known[1:] if any(text in m.name for text in asked))]


def residual_prior(
    cfg: Config, detector: EBMDetector, path: Path, say: Callable[[str], None]
) -> tuple[Tensor, Tensor]:
    """Standard deviations and median of the detector's residuals on the training images."""
    if not path.exists():
        say("detecting on the training images, for the prior")
        residuals = detector_residuals(detector, DATASETS.build(cfg.fit_dataset))
        # Not robust: matching at IoU 0.5 bounds the residuals, and k usually refers to this std.
        std, median = fit_residual_std(residuals, robust=None), residuals.median(0).values
        write_json(path, dict(std=std.tolist(), median=median.tolist(), boxes=len(residuals)))
    stored = read_json(path)
    say(f"residuals: {stored}")
    return torch.tensor(stored["std"]), torch.tensor(stored["median"])


def _groups(method: Method, seeds: Sequence[int]) -> list[Sequence[int]]:
    """The seeds that each evaluation of a row uses."""
    if method.head is None:
        return [()]
    return [seeds] if method.ensemble else [(seed,) for seed in seeds]


def claim_folder(out: Path, cfg: Config, settings: StudySettings) -> None:
    """Store the settings, or check that the folder was made with the same ones.

    Raises:
        FileExistsError: it was made with others.
    """
    weights = Path(cfg.load_from)
    wanted = dict(
        config=hash_recipe(cfg),
        checkpoint=hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else None,
        rounds=settings.rounds,
        boxes_per_iteration=settings.boxes_per_iteration,
    )
    claim(out, wanted)


def hash_recipe(cfg: Config) -> str:
    """Hash of the parts that distinguish recipes: model, schedule, and training images."""
    parts = {
        key: cfg.get(key) for key in ("model", "optim_wrapper", "param_scheduler", "train_cfg")
    }
    text = json.dumps({**parts, "data": cfg.train_dataloader.dataset}, default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def claim(out: Path, wanted: dict) -> None:
    """Write ``wanted`` to ``settings.json`` of a folder, or check that it has this content.

    Raises:
        FileExistsError: its content differs; the message names the entries.
    """
    path = out / "settings.json"
    stored = read_json(path)
    if stored is None:
        write_json(path, wanted)
    elif stored != wanted:
        changed = ", ".join(differing_keys(stored, wanted))
        raise FileExistsError(
            f"{out} holds a study with another {changed}; give a new --out folder or remove this "
            "one"
        )
