"""Calibrate the intervals of a detector's box sides on annotated images that it has not seen."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from mmdet.registry import DATASETS
from mmengine.config import Config

from ..datasets import use_checked_annotations
from ..energy import grouped_quantiles, interval_scores
from ..models.detectors.side_intervals import SPREADS, SideIntervals
from .calibration_run import CalibrationRun, check_classes, coverage_lines
from .fitting.classes import check_class_order, file_orders, training_file_orders
from .fitting.image_set import ImageSet
from .fitting.items import probe
from .matched_sides import IOU_THR, SCORE_THR, MatchedSides, matched_sides

__all__ = ["calibrate", "fit_intervals"]

MIN_COUNT = 100
EDGES = (32.0, 96.0)


def calibrate(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike,
    ann_file: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    level: float = 0.9,
    joint: bool = False,
    spread: str | None = None,
    by_image: bool = False,
    score_thr: float = SCORE_THR,
    iou_thr: float = IOU_THR,
    min_count: int = MIN_COUNT,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> SideIntervals:
    """Write a checkpoint whose model predicts intervals that hold with probability ``level``.

    The detections that count are those with a score of at least ``score_thr`` that match an object
    of their class (:func:`~ebm_mmdet.evaluation.match_detections`). The probability is over such
    detections of further images, where these and the calibration images are exchangeable: drawn in
    the same way, and none of them used for training. It says nothing about detections that match
    no object. Boxes of one image are not independent; with ``by_image`` the probability is exact
    for a random detection of a random image.

    An interrupted call loses half a minute: the same call goes on. What it knows is in a folder
    beside ``out``, ``NAME_intervals.pth.unfinished``, which is removed at the end.

    Args:
        config: of a detector, with an energy head or without.
        checkpoint: its checkpoint; it does not change.
        ann_file: COCO annotations of the calibration images; by default the test data of the
            config.
        images: folder of these images; by default that of the config's test data.
        out: checkpoint to write; by default ``NAME_intervals.pth`` beside ``checkpoint``. It has
            weights and ``meta``, and no state of a training, which would change the model.
        level: probability, of each side alone or, with ``joint``, of all four at once.
        joint: see ``level``.
        spread: what the width of an interval is proportional to: ``'std'``, the model's standard
            deviation of the side; ``'samples'``, quantiles of ``box_samples``; ``'size'``, the
            box's width or height; ``'pixels'``, the same width for all. By default ``'std'`` if the
            model gives it, else ``'size'``.
        by_image: bounds for a random detection of a random image, see above.
        score_thr: lowest score of a detection.
        iou_thr: smallest IoU with its object.
        min_count: fewest detections (with ``by_image``, images) of a class and size with bounds of
            its own; others share them (:func:`~ebm_mmdet.energy.grouped_quantiles`).
        device: such as ``'cuda:0'``.
        say: gets lines about the progress and the result.

    Returns:
        The intervals.

    Raises:
        FileExistsError: ``out`` exists, an interrupted call to it had other settings, or another
            call to it is running.
        FileNotFoundError: there is no such config, checkpoint or annotation file.
        CheckpointError: the checkpoint does not fit.
        ValueError: ``level`` is not in (0, 1), the annotations are those of the training, the
            detector has other classes than the data set, files number them in another order,
            annotations state another size of an image, or too few detections match; a detection
            lacks what ``spread`` needs.
    """
    if spread is not None and spread not in SPREADS:
        raise ValueError(f"spread={spread!r}; use one of {', '.join(SPREADS)}")
    run = CalibrationRun(
        config,
        checkpoint,
        ann_file,
        out,
        level,
        score_thr,
        iou_thr,
        say,
        settings=dict(
            images=None if images is None else os.path.abspath(images), level=level, spread=spread
        ),
    )
    use_checked_annotations()
    dataset = run.dataset(DATASETS, images)
    model = run.model(device, SideIntervals)
    check_classes(model, dataset)
    orders = training_file_orders(run.cfg) + file_orders("calibration", dataset)
    for line in check_class_order(orders, model.dataset_meta["classes"]):
        say(line)
    probe(ImageSet(dataset, range(len(dataset))), "calibration")
    with run.matching() as folder:
        sides = matched_sides(model, dataset, level, spread, score_thr, iou_thr, say, folder)
        run.check_enough(len(sides.residual), len(sides.image.unique()) if by_image else None)
        classes = model.dataset_meta["classes"]
        intervals = fit_intervals(sides, len(classes), level, joint, by_image, min_count)
        run.write(intervals, dataset, report)
    return intervals


def fit_intervals(
    sides: MatchedSides,
    num_classes: int,
    level: float,
    joint: bool = False,
    by_image: bool = False,
    min_count: int = MIN_COUNT,
) -> SideIntervals:
    """The intervals that follow from matched detections, by split conformal calibration.

    Args:
        sides: the matched detections.
        num_classes: of the detector.
        level: see :func:`calibrate`.
        joint: likewise.
        by_image: likewise.
        min_count: likewise.

    Raises:
        ValueError: there are too few detections for the level.
    """
    scores = interval_scores(sides.residual, sides.spread)
    scores = scores.amax(1, keepdim=True) if joint else scores
    intervals = SideIntervals(
        level, joint, sides.kind, torch.zeros(num_classes + 1, len(EDGES) + 2, 1 if joint else 4)
    )
    sizes = intervals.size_index(sides.boxes)
    shape = (num_classes, len(EDGES) + 1)
    image = sides.image if by_image else None
    intervals.bounds, counts, source = grouped_quantiles(
        scores, level, sides.labels, sizes, shape, min_count, image
    )
    intervals.facts = dict(
        detections=len(scores),
        by_image=by_image,
        min_count=min_count,
        counts=counts.tolist(),
        source=source.tolist(),
    )
    return intervals


def report(intervals: SideIntervals) -> str:
    """What a calibration was made from, and what it promises, in a few lines."""
    facts = intervals.facts
    pooled, unit = facts["counts"][-1][-1], "images" if facts["by_image"] else "detections"
    sides = "all four sides at once" if intervals.joint else "each side"
    own = sum(row.count(0) for row in facts["source"])
    cells = (len(facts["source"]) - 1) * (len(facts["source"][0]) - 1)
    bounds = ", ".join(f"{value:.3g}" for value in intervals.bounds[-1, -1].tolist())
    return "\n".join(
        [
            *coverage_lines(facts["detections"], intervals.level, pooled, unit, sides),
            f"bounds of all, in units of {intervals.spread!r}: {bounds}",
            f"{own} of {cells} pairs of class and size have bounds of their own "
            f"(at least {facts['min_count']} {unit})",
        ]
    )
