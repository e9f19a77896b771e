"""Comparison of recipes, such as objectives, for an energy head on one frozen detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from mmdet.registry import DATASETS
from mmengine.config import Config

from ebm_mmdet.apis.feature_cache import cache_test_images
from ebm_mmdet.apis.trained_detector import load_frozen_detector
from ebm_mmdet.datasets import CheckedCOCO, use_checked_annotations
from ebm_mmdet.evaluation.average_precision import MatchedDetections
from ebm_mmdet.evaluation.bootstrap import bootstrap_weights, resample

from .heads import TrainedHeads, training_views
from .limits import detections_per_image, limit_warnings, wrapper_and_detector
from .methods import ENERGY, Method, apply, energy_methods
from .report import make_row, statistic, write_report
from .study import StudySettings, claim_folder, residual_prior
from .study_file import folder_name

__all__ = ["compare_recipes"]


def compare_recipes(
    cfgs: Mapping[str, Config],
    out: Path,
    settings: StudySettings,
    say: Callable[[str], None] = print,
) -> dict:
    """Train a head by every recipe on the same cached features; evaluate all in the same way.

    Heads are kept in ``out`` and used again by the next call.

    Args:
        cfgs: configs of ``EBMDetector``, by name, that differ only in head, refiner and schedule;
            costs are relative to the first.
        out: folder of this comparison.
        settings: see :class:`StudySettings`; ``rivals`` is not used.
        say: receives one line per step.

    Returns:
        The content of ``results.json``. Each row has ``recipe``, ``method``, the metrics,
        ``first_loss`` and ``last_loss`` (mean of the first and last tenth of the training) and
        ``cost`` (training time relative to the first recipe).

    Raises:
        ValueError: the configs differ in the detector, its checkpoint or the training images.
        FileExistsError: ``out`` has heads of other settings.
    """
    first = next(iter(cfgs.values()))
    for name, cfg in cfgs.items():
        for part in ("model.detector", "load_from", "train_dataloader.dataset"):
            if _get(cfg, part) != _get(first, part):
                raise ValueError(
                    f"recipe {name!r} has another {part}; recipes are compared on one detector "
                    "and the same images. Let all of them inherit from one config"
                )
        claim_folder(out / folder_name(name), cfg, settings)
    use_checked_annotations()
    detector = load_frozen_detector(first)
    std, shift = residual_prior(first, detector, out / "prior.json", say)
    test_set = DATASETS.build(first.val_dataloader.dataset)
    truth, most = CheckedCOCO(test_set.ann_file), detections_per_image(first)
    for warning in limit_warnings(wrapper_and_detector(first), truth, test_set.cat_ids, most):
        say(warning)
    images = cache_test_images(detector, test_set, most)
    weights = bootstrap_weights(len(truth.imgs), settings.resamples)
    views = training_views(first, detector, settings.rounds, say)

    def evaluate(method: Method, heads: list) -> tuple[list[MatchedDetections], list[float]]:
        runs, times = [], []
        for head in heads:
            records, seconds = apply(method, detector, images, head, test_set.cat_ids)
            runs.append(MatchedDetections(truth, records, most))
            times.append(seconds)
        return runs, times

    unrefined = Method("detector, clipped", lambda head: None)
    base, times = evaluate(unrefined, [[]])
    first_row = resample(statistic(base), weights)
    row = make_row(unrefined, first_row, first_row, base, [], times)
    rows = [dict(recipe="", **row, first_loss=None, last_loss=None, cost=None)]
    reference = None
    for name, cfg in cfgs.items():
        heads = TrainedHeads(
            cfg, detector, out / folder_name(name), views, settings.boxes_per_iteration, say
        )
        trained = [heads.get(ENERGY, seed) for seed in settings.seeds]
        seconds = [each.seconds for each in trained]
        reference = reference or float(np.mean(seconds))
        climbs = energy_methods(cfg.model.refiner, std, shift, settings.prior_k)[:3]
        for method in climbs:
            runs, times = evaluate(method, [[each.head] for each in trained])
            measured = resample(statistic(runs), weights)
            row = make_row(method, first_row, measured, runs, seconds, times)
            rows.append(
                dict(
                    recipe=name,
                    **row,
                    first_loss=round(float(np.mean([each.losses[0] for each in trained])), 3),
                    last_loss=round(float(np.mean([each.losses[-1] for each in trained])), 3),
                    cost=round(float(np.mean(seconds)) / reference, 2),
                )
            )
            say("  ".join(f"{key} {value}" for key, value in rows[-1].items() if value is not None))
    return write_report(out, settings, rows, residual_std=std.tolist())


def _get(cfg: Config, path: str):
    for key in path.split("."):
        cfg = cfg[key]
    return cfg
