"""Calibrate the intervals of 3D boxes on annotated frames that the model has not seen."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import torch
from mmdet3d.registry import DATASETS
from mmengine.config import Config
from torch import Tensor

from ebm_mmdet.apis.calibration_run import CalibrationRun, check_classes, coverage_lines
from ebm_mmdet.energy import grouped_quantiles, interval_scores

from ..models.detectors.dim_intervals import DIMENSIONS, MIN_SPREAD, SPREADS_3D, DimIntervals
from .matched_dims import MatchedDims, matched_dims

__all__ = ["calibrate_3d", "fit_dim_intervals"]

SCALE_EVERY = 5
"""One frame in so many makes the seven numbers comparable for joint intervals in metres."""
FEWEST_FOR_SCALE = 5
OTHER_FRAMES = f"without every {SCALE_EVERY}th frame, from which a joint level gets its units"


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
        FileExistsError: ``out`` exists, an interrupted call to it had other settings, or another
            call to it is running.
        FileNotFoundError: there is no such config, checkpoint or annotation file.
        CheckpointError: the checkpoint does not fit.
        ValueError: ``level`` is not in (0, 1), the annotations are those of the training, there
            are none, a label is of another class to the detector than to the data set, too few
            detections match, or a detection lacks what ``spread`` needs.
    """
    if spread is not None and spread not in SPREADS_3D:
        raise ValueError(f"spread={spread!r}; for 3D boxes use one of {', '.join(SPREADS_3D)}")
    period = math.pi if undirected else 2 * math.pi
    run = CalibrationRun(
        config,
        checkpoint,
        ann_file,
        out,
        level,
        score_thr,
        iou_thr,
        say,
        settings=dict(spread=spread, undirected=undirected),
        unit="frames",
    )
    dataset = run.dataset(DATASETS)
    model = run.model(device, DimIntervals)
    check_classes(model, dataset, merged=True)
    classes = list(dataset.metainfo["classes"])
    with run.matching() as folder:
        dims = matched_dims(model, dataset, spread, score_thr, iou_thr, period, say, folder)
        _check_enough(run, dims, by_image)
        if joint:
            _check_enough(run, _comparable(dims)[1], by_image, OTHER_FRAMES)
        intervals = fit_dim_intervals(dims, len(classes), level, joint, by_image, min_count, period)
        intervals.facts["classes"] = classes
        run.write(intervals, dataset, report)
    return intervals


def _check_enough(run: CalibrationRun, dims: MatchedDims, by_image: bool, where: str = "") -> None:
    run.check_enough(len(dims.residual), len(dims.image.unique()) if by_image else None, where)


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
    if joint:
        scale, dims = _comparable(dims)
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


def _comparable(dims: MatchedDims) -> tuple[Tensor, MatchedDims]:
    """Units (7,) in which the seven numbers are comparable, and detections with no part in them.

    Without a spread, median errors in every fifth frame, and the detections of the other frames.

    Raises:
        ValueError: there are too few of either.
    """
    if dims.kind != "metres":
        return torch.ones(7), dims
    some = dims.image % SCALE_EVERY == 0
    if int(some.sum()) < FEWEST_FOR_SCALE or bool(some.all()):
        raise ValueError(
            f"{int(some.sum())} of {len(some)} detections are in every {SCALE_EVERY}th frame, from "
            f"which a joint level gets its units; it takes {FEWEST_FOR_SCALE} at least, and others "
            "for the bounds. Take more frames, or a model with a spread"
        )
    scale = dims.residual[some].abs().median(0).values.clamp(min=MIN_SPREAD)
    rest = MatchedDims(*(each[~some] for each in dims[:-1]), kind=dims.kind)
    return scale, rest


def report(intervals: DimIntervals) -> str:
    """What a calibration was made from, and what it promises, in a few lines."""
    facts = intervals.facts
    pooled, unit = facts["counts"][-1], "frames" if facts["by_image"] else "detections"
    numbers = "all seven numbers at once" if intervals.joint else "each number"
    reach = (intervals.bounds[-1] * torch.tensor(intervals.scale)).tolist()
    if intervals.spread == "metres":
        reach[6] = min(reach[6], 0.5 * intervals.period)
    bounds = ", ".join(f"{name} {value:.3g}" for name, value in zip(DIMENSIONS, reach))
    units = "metres and radians" if intervals.spread == "metres" else "standard deviations"
    own = sum(source == 0 for source in facts["source"][:-1])
    return "\n".join(
        [
            *coverage_lines(facts["detections"], intervals.level, pooled, unit, numbers),
            f"bounds of all, in {units}: {bounds}",
            f"{own} of {len(facts['source']) - 1} classes have bounds of their own (at least "
            f"{facts['min_count']} {unit})",
        ]
    )
