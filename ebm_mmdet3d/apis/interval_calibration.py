"""Calibrate the intervals of 3D boxes on annotated frames that the model has not seen."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
from mmdet3d.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor

from ebm_mmdet.apis.inspection import inner_datasets
from ebm_mmdet.apis.trained_detector import load_detector, read_config
from ebm_mmdet.apis.unfinished_calibration import UnfinishedCalibration
from ebm_mmdet.energy import expected_coverage, fewest_scores, grouped_quantiles, interval_scores
from ebm_mmdet.engine.stored_intervals import calibrated_path, model_digest, store_intervals
from ebm_mmdet.models import attach_intervals

from ..models.detectors.dim_intervals import DIMENSIONS, MIN_SPREAD, SPREADS_3D, DimIntervals
from .matched_dims import MatchedDims, matched_dims

__all__ = ["calibrate_3d", "fit_dim_intervals"]

SCALE_EVERY = 5
"""One frame in so many makes the seven numbers comparable for joint intervals in metres."""
FEWEST_FOR_SCALE = 5


def calibrate_3d(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike,
    ann_file: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    level: float = 0.9,
    joint: bool = False,
    spread: str | None = None,
    by_image: bool = False,
    score_thr: float = 0.3,
    iou_thr: float = 0.5,
    min_count: int = 100,
    undirected: bool = False,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> DimIntervals:
    """Write a checkpoint whose model predicts intervals of x, y, z, l, w, h and yaw.

    It is :func:`ebm_mmdet.apis.calibrate` for mmdet3d's detectors: what is promised, and about
    which detections, is said there.

    Args:
        config: of a detector, with an energy head (``EBM3DDetector``) or without.
        checkpoint: its checkpoint; it does not change.
        ann_file: annotation file (``.pkl``) of the calibration frames, beside the config's; by
            default the test data of the config.
        out: checkpoint to write; by default ``NAME_intervals.pth`` beside ``checkpoint``.
        level: probability, of each number alone or, with ``joint``, of all seven at once.
        joint: see ``level``.
        spread: what the width of an interval is proportional to: ``'std'``, the model's
            ``box_std``; ``'metres'``, the same width for all. By default ``'std'`` if the model
            gives it.
        by_image: bounds for a random detection of a random frame.
        score_thr: lowest score of a detection.
        iou_thr: smallest 3D IoU with its object.
        min_count: fewest detections (with ``by_image``, frames) of a class with bounds of its own.
        undirected: yaw counts modulo π, for detectors that do not tell front from back.
        device: such as ``'cuda:0'``.
        say: gets lines about the progress and the result.

    Returns:
        The intervals.

    Raises:
        FileExistsError: ``out`` exists, or an interrupted call to it had other settings.
        FileNotFoundError: there is no such config, checkpoint or annotation file.
        CheckpointError: the checkpoint does not fit.
        ValueError: ``level`` is not in (0, 1), the annotations are those of the training, there
            are none, too few detections match, or a detection lacks what ``spread`` needs.
    """
    needed = fewest_scores(level)
    if spread is not None and spread not in SPREADS_3D:
        raise ValueError(f"spread={spread!r}; for 3D boxes use one of {', '.join(SPREADS_3D)}")
    checkpoint = Path(checkpoint)
    out = calibrated_path(checkpoint, out)
    cfg = read_config(config)
    unfinished = UnfinishedCalibration(
        out,
        cfg,
        checkpoint,
        ann_file,
        spread=spread,
        score_thr=score_thr,
        iou_thr=iou_thr,
        undirected=undirected,
    )
    dataset = _dataset(cfg, ann_file)
    model = load_detector(cfg, checkpoint, device)
    attach_intervals(model, None, DimIntervals)  # those of an earlier calibration
    period = math.pi if undirected else 2 * math.pi
    with unfinished.begin(say) as folder:
        dims = matched_dims(model, dataset, spread, score_thr, iou_thr, period, say, folder)
        if len(dims.residual) < needed:
            raise ValueError(
                f"{len(dims.residual)} detections with a score of {score_thr} or more match an "
                f"object at a 3D IoU of {iou_thr}; a level of {level} takes {needed} at least. "
                "Take more frames, or a lower level, score or IoU"
            )
    classes = list(dataset.metainfo["classes"])
    intervals = fit_dim_intervals(dims, len(classes), level, joint, by_image, min_count, period)
    intervals.facts.update(
        classes=classes,
        score_thr=score_thr,
        iou_thr=iou_thr,
        images=len(dataset),
        annotations=str(ann_file or ""),
        model=model_digest(cfg),
    )
    store_intervals(checkpoint, out, DimIntervals.attribute, intervals.to_meta())
    unfinished.remove()
    say(report(intervals))
    say(f"wrote {out}")
    return intervals


def fit_dim_intervals(
    dims: MatchedDims,
    num_classes: int,
    level: float,
    joint: bool = False,
    by_image: bool = False,
    min_count: int = 100,
    period: float = 2 * math.pi,
) -> DimIntervals:
    """The intervals that follow from matched detections, by split conformal calibration.

    One bound for metres and radians together needs units in which they are comparable. With a
    spread these are its own. With ``'metres'`` they are the median errors in every fifth frame,
    whose detections then have no part in the bounds, so that the probability stays exact.

    Args:
        dims: the matched detections.
        num_classes: of the detector.
        level: see :func:`calibrate_3d`.
        joint: likewise.
        by_image: likewise.
        min_count: likewise.
        period: of yaw.

    Raises:
        ValueError: there are too few detections for the level.
    """
    scale = torch.ones(7)
    if joint and dims.kind == "metres":
        scale, dims = _scale(dims)
    spread = (dims.spread * scale)[..., None].expand(-1, -1, 2)
    scores = interval_scores(dims.residual, spread)
    scores = scores.amax(1, keepdim=True) if joint else scores
    table, counts, source = grouped_quantiles(
        scores,
        level,
        dims.labels,
        torch.zeros_like(dims.labels),
        (num_classes, 1),
        min_count,
        dims.image if by_image else None,
    )
    # Of the table by class and size: one size, and last the bounds of all.
    rows = [*[(k, 0) for k in range(num_classes)], (num_classes, 1)]
    facts = dict(
        detections=len(scores),
        by_image=by_image,
        min_count=min_count,
        counts=[int(counts[place]) for place in rows],
        source=[int(source[place]) for place in rows],
    )
    bounds = torch.stack([table[place] for place in rows]).float()
    return DimIntervals(level, joint, dims.kind, bounds, tuple(scale.tolist()), period, facts)


def _scale(dims: MatchedDims) -> tuple[Tensor, MatchedDims]:
    """Median errors (7,) in every fifth frame, and the detections of the other frames.

    Raises:
        ValueError: there are too few of either.
    """
    some = dims.image % SCALE_EVERY == 0
    if int(some.sum()) < FEWEST_FOR_SCALE or bool(some.all()):
        raise ValueError(
            f"{int(some.sum())} of {len(some)} detections are in every {SCALE_EVERY}th frame, from "
            f"which a joint level gets its units; it takes {FEWEST_FOR_SCALE} at least. Take more "
            "frames, or a model with a spread"
        )
    scale = dims.residual[some].abs().median(0).values.clamp(min=MIN_SPREAD)
    rest = MatchedDims(*(each[~some] for each in dims[:-1]), kind=dims.kind)
    return scale, rest


def report(intervals: DimIntervals) -> str:
    """What a calibration was made from, and what it promises, in a few lines."""
    facts = intervals.facts
    pooled, unit = facts["counts"][-1], "frames" if facts["by_image"] else "detections"
    mean, std = expected_coverage(pooled, intervals.level)
    unscaled = intervals.bounds[-1] * torch.tensor(intervals.scale)
    unscaled = unscaled.tolist()
    if intervals.spread == "metres":
        unscaled[6] = min(unscaled[6], 0.5 * intervals.period)
    bounds = ", ".join(f"{name} {value:.3g}" for name, value in zip(DIMENSIONS, unscaled))
    what = "all seven numbers at once" if intervals.joint else "each number"
    units = "metres and radians" if intervals.spread == "metres" else "standard deviations"
    own = sum(source == 0 for source in facts["source"][:-1])
    return "\n".join(
        [
            f"{facts['detections']} detections match an object; bounds from {pooled} {unit}",
            f"coverage of {what}: {100 * mean:.1f} % in the mean over calibration sets, ± "
            f"{100 * std:.1f} from one to the next if {unit} are independent",
            f"bounds of all, in {units}: {bounds}",
            f"{own} of {len(facts['source']) - 1} classes have bounds of their own (at least "
            f"{facts['min_count']} {unit})",
        ]
    )


def _dataset(cfg: Config, ann_file: str | os.PathLike | None):
    """The test data set of a config, with other annotations if given.

    Raises:
        FileNotFoundError: there is no such annotation file.
        ValueError: the config has no test data, or it was trained on these annotations.
    """
    if not cfg.get("test_dataloader"):
        raise ValueError("the config has no test_dataloader, whose pipeline is used")
    init_default_scope(cfg.get("default_scope", "mmdet3d"))
    outer = cfg.test_dataloader.dataset
    inner = inner_datasets(outer)[0]
    if ann_file is not None:
        if not Path(ann_file).is_file():
            raise FileNotFoundError(f"there is no annotation file {ann_file}")
        inner.ann_file = os.path.abspath(ann_file)
        trained = cfg.get("train_dataloader")
        for dataset in inner_datasets(trained["dataset"]) if trained else []:
            name = os.path.join(dataset.get("data_root") or "", dataset.get("ann_file") or "")
            if os.path.abspath(name) == inner.ann_file:
                raise ValueError(
                    f"{ann_file} is what the config trains on: intervals from these frames would "
                    "be too short; give frames that the detector and its head have not seen"
                )
    return DATASETS.build(outer)
