"""COCO average precision for any weights of the images, as a bootstrap needs it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..box_iou import box_iou
from .conventions import ConventionCOCOeval, best_convention_iou

__all__ = [
    "IOU_THRESHOLDS",
    "METRICS",
    "ClassMatches",
    "MatchedDetections",
    "coco_results",
    "mean_over_matches",
    "precision_by_threshold",
]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
METRICS = ("AP", "AP50", "AP75", "AP90", "AP95", "IoU_TP")
_COLUMN = {"AP50": 0, "AP75": 5, "AP90": 8, "AP95": 9}


class ClassMatches(NamedTuple):
    """Detections of one class by descending score, and the annotations of each image."""

    image: np.ndarray  # (D,) index of the image
    hit: np.ndarray  # (T, D) bool, matched an annotation
    miss: (
        np.ndarray
    )  # (T, D) bool, matched nothing (if neither hit nor miss: matched an ignore region)
    positives: np.ndarray  # (I,) annotations that count
    iou: np.ndarray  # (D,) IoU with the annotation matched at 0.5; NaN without one


def finite_or_empty(box: Sequence[float]) -> Sequence[float]:
    """A detected box (x, y, w, h), or one without area if it is not finite.

    To pycocotools an IoU of NaN is above every threshold: the box would match any object, and take
    it from the right one. So it matches none.
    """
    return box if np.isfinite(box).all() else [0.0] * 4


class MatchedDetections:
    """Matches detections to annotations once, by pycocotools; then gives AP for any image weights.

    An image of weight w counts as w copies of it, so with integer weights the result equals
    COCO's AP on the resampled set (areas "all"), except for equal scores within one image, whose
    order between copies is arbitrary.

    Args:
        ground_truth: the annotations.
        detections: COCO result records: ``image_id``, ``category_id``, ``bbox`` (x, y, w, h),
            ``score``.
        max_dets: largest number of detections per image and class.
        conventions: match the better of several right boxes (:mod:`.conventions`).
    """

    def __init__(
        self,
        ground_truth: COCO,
        detections: Sequence[dict],
        max_dets: int = 100,
        conventions: bool = False,
    ) -> None:
        found = COCO()
        found.dataset = {
            "images": ground_truth.dataset["images"],
            "categories": ground_truth.dataset["categories"],
            "annotations": [
                {**record, "id": i, "iscrowd": 0, "bbox": box, "area": box[2] * box[3]}
                for i, record in enumerate(detections, start=1)
                for box in (finite_or_empty(record["bbox"]),)
            ],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            found.createIndex()
            kind = ConventionCOCOeval if conventions else COCOeval
            evaluation = kind(ground_truth, found, "bbox")
            evaluation.params.iouThrs = IOU_THRESHOLDS
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
            evaluation.params.maxDets = [max_dets]
            evaluation.evaluate()
        self.image_ids = list(evaluation.params.imgIds)
        records = iter(evaluation.evalImgs)  # class by class, image by image
        self._classes = [
            _collect([next(records) for _ in self.image_ids], ground_truth, found, conventions)
            for _ in evaluation.params.catIds
        ]

    def metrics(self, image_weights: np.ndarray | None = None) -> np.ndarray:
        """AP, AP50, AP75, AP90, AP95 and the mean IoU of true positives at 0.5, in [0, 1].

        Args:
            image_weights: (I,) not negative, in the order of ``image_ids``; by default ones.

        Returns:
            (6,) in the order of ``METRICS``; NaN if nothing is annotated.
        """
        weights = np.ones(len(self.image_ids)) if image_weights is None else image_weights
        ap = precision_by_threshold(self._classes, weights)
        mean_iou = mean_over_matches(self._classes, weights)
        return np.array([ap.mean(), *(ap[i] for i in _COLUMN.values()), mean_iou])


def precision_by_threshold(classes: Sequence[ClassMatches], weights: np.ndarray) -> np.ndarray:
    """COCO's AP at each of T thresholds, the mean over the classes that are annotated.

    Args:
        classes: matches of each class.
        weights: (I,) of the images, not negative.

    Returns:
        (T,) in [0, 1]; NaN if no class is annotated.
    """
    table = np.array([_average_precision(c, weights) for c in classes])
    table = table.reshape(-1, len(IOU_THRESHOLDS))
    table = table[~np.isnan(table).any(axis=1)]
    return table.mean(axis=0) if len(table) else np.full(len(IOU_THRESHOLDS), np.nan)


def mean_over_matches(classes: Sequence[ClassMatches], weights: np.ndarray) -> float:
    """Mean IoU of the detections that match at the first threshold; NaN if there are none.

    Arguments are those of :func:`precision_by_threshold`.
    """
    iou = np.concatenate([c.iou for c in classes])
    weight = np.concatenate([weights[c.image] for c in classes])
    weight = np.where(np.isnan(iou), 0, weight)
    return float(np.nansum(iou * weight) / weight.sum()) if weight.sum() else float("nan")


def coco_results(image_id: int, boxes: np.ndarray, scores, labels, category_ids) -> list[dict]:
    """Result records of one image from boxes (n, 4) ``(x1, y1, x2, y2)`` in its own pixels."""
    return [
        {
            "image_id": int(image_id),
            "category_id": int(category_ids[label]),
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "score": float(score),
        }
        for (x1, y1, x2, y2), score, label in zip(boxes, scores, labels)
    ]


def _collect(
    records: list[dict | None], ground_truth: COCO, found: COCO, conventions: bool
) -> ClassMatches:
    empty = np.zeros((len(IOU_THRESHOLDS), 0), dtype=bool)
    scores, images, hits, misses, ious = [np.zeros(0)], [np.zeros(0, int)], [empty], [empty], []
    positives = np.zeros(len(records))
    for i, record in enumerate(records):
        if record is None:
            continue
        positives[i] = np.sum(np.asarray(record["gtIgnore"]) == 0)
        matched, ignored = record["dtMatches"] > 0, np.asarray(record["dtIgnore"], dtype=bool)
        scores.append(np.asarray(record["dtScores"]))
        images.append(np.full(len(record["dtScores"]), i))
        hits.append(matched & ~ignored)
        misses.append(~matched & ~ignored)
        for detection, annotation, hit in zip(record["dtIds"], record["dtMatches"][0], hits[-1][0]):
            if hit:
                box = _corners(found.anns[detection]["bbox"])
                truth = ground_truth.anns[int(annotation)]
                if conventions:
                    ious.append(best_convention_iou(np.array(box), truth))
                else:
                    ious.append(float(box_iou(box, _corners(truth["bbox"]))))
            else:
                ious.append(np.nan)
    # A stable sort, as in COCO: equal scores keep the order of images.
    order = np.argsort(-np.concatenate(scores), kind="mergesort")
    return ClassMatches(
        np.concatenate(images)[order],
        np.concatenate(hits, axis=1)[:, order],
        np.concatenate(misses, axis=1)[:, order],
        positives,
        np.array(ious, dtype=float)[order],
    )


def _average_precision(c: ClassMatches, weights: np.ndarray) -> np.ndarray:
    """(T,) COCO's 101-point AP of one class; NaN if nothing is annotated."""
    total = (weights * c.positives).sum()
    if total == 0:
        return np.full(len(IOU_THRESHOLDS), np.nan)
    weight = weights[c.image]
    hits, misses = np.cumsum(c.hit * weight, axis=1), np.cumsum(c.miss * weight, axis=1)
    precision = hits / np.maximum(hits + misses, np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    precision = np.concatenate([precision, np.zeros((len(precision), 1))], axis=1)
    levels = np.linspace(0, 1, 101)
    return np.array(
        [p[np.searchsorted(h / total, levels, side="left")].mean() for p, h in zip(precision, hits)]
    )


def _corners(box: Sequence[float]) -> tuple[float, float, float, float]:
    """``x, y, width, height`` to ``x1, y1, x2, y2``."""
    x, y, width, height = box
    return x, y, x + width, y + height
