"""Average precision of boxes in 3D and from above, for any weights of the frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from ebm_mmdet.evaluation.average_precision import (
    IOU_THRESHOLDS,
    ClassMatches,
    mean_over_matches,
    precision_by_threshold,
)

from ...evaluation import box_iou_3d, box_iou_bev
from .frame_set import Truth3D

__all__ = ["HEADINGS", "MatchedFrames", "matched_residuals_3d"]

HEADINGS = {
    "AP": "3D AP",
    "AP70": "3D AP70",
    "AP80": "3D AP80",
    "AP90": "3D AP90",
    "BEV_AP": "BEV AP",
    "BEV_AP70": "BEV AP70",
    "BEV_AP80": "BEV AP80",
    "BEV_AP90": "BEV AP90",
    "IoU_TP": "mean IoU",
}
"""Names of the metrics in files, and in the table. AP is the mean over IoU 0.5, 0.55, ..., 0.95."""
_COLUMNS = [4, 6, 8]  # of the thresholds 0.7, 0.8 and 0.9


class MatchedFrames:
    """Matches detections to objects once; then gives AP for any weights of the frames.

    Within a class, detections are processed by descending score; each takes the free object that
    it overlaps most, above the threshold. If there is none, a neutral object that it overlaps makes
    it neutral; else it is wrong. A frame of weight w counts as w copies of it. AP is COCO's mean
    over 101 recalls; KITTI's own has 40, counts difficulties apart and looks at the image too.

    Args:
        truth: annotations, frame by frame.
        detections: for each frame its records: ``box`` (7,), ``score``, ``label``.
        num_classes: of the detector.
    """

    def __init__(
        self,
        truth: Sequence[Truth3D],
        detections: Sequence[Sequence[dict]],
        num_classes: int,
    ) -> None:
        self.num_frames = len(truth)
        frames = [_Frame(one, records) for one, records in zip(truth, detections)]
        self._kinds = [
            [_match_class(frames, overlaps, label) for label in range(num_classes)]
            for overlaps in ("iou_3d", "iou_bev")
        ]

    def metrics(self, frame_weights: np.ndarray | None = None) -> np.ndarray:
        """The metrics of :data:`HEADINGS`, each in [0, 1].

        Args:
            frame_weights: (F,) not negative; by default ones.

        Returns:
            (9,), NaN if nothing is annotated.
        """
        weights = np.ones(self.num_frames) if frame_weights is None else frame_weights
        values: list[float] = []
        for classes in self._kinds:
            ap = precision_by_threshold(classes, weights)
            values += [float(ap.mean()), *(float(ap[column]) for column in _COLUMNS)]
        return np.array([*values, mean_over_matches(self._kinds[0], weights)])


class _Frame:
    """Boxes of a frame as arrays, with all their overlaps."""

    def __init__(self, truth: Truth3D, records: Sequence[dict]) -> None:
        self.truth = truth
        boxes = np.array([each["box"] for each in records], np.float64).reshape(-1, 7)
        self.scores = np.array([each["score"] for each in records], np.float64)
        self.labels = np.array([each["label"] for each in records], np.int64)
        self.iou_3d = box_iou_3d(boxes, truth.boxes)
        self.iou_bev = box_iou_bev(boxes, truth.boxes)


def _match_class(frames: Sequence[_Frame], overlaps: str, label: int) -> ClassMatches:
    number = len(IOU_THRESHOLDS)
    empty = np.zeros((number, 0), bool)
    scores, images, hits, misses, ious = [np.zeros(0)], [np.zeros(0, int)], [empty], [empty], []
    positives = np.zeros(len(frames))
    for index, frame in enumerate(frames):
        truth = frame.truth
        own = np.flatnonzero((truth.labels == label) & ~truth.neutral)
        # A box of another class, such as a van for a car, excuses one that is found there.
        neutral = np.flatnonzero(truth.neutral & np.isin(truth.labels, (label, -1)))
        positives[index] = len(own)
        chosen = np.flatnonzero(frame.labels == label)
        chosen = chosen[np.argsort(-frame.scores[chosen], kind="stable")]
        iou = getattr(frame, overlaps)[chosen]
        hit, miss, best = _match(iou[:, own], iou[:, neutral])
        scores.append(frame.scores[chosen])
        images.append(np.full(len(chosen), index))
        hits.append(hit)
        misses.append(miss)
        ious.append(best)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return ClassMatches(
        np.concatenate(images)[order],
        np.concatenate(hits, axis=1)[:, order],
        np.concatenate(misses, axis=1)[:, order],
        positives,
        np.concatenate([np.zeros(0), *ious])[order],
    )


def _match(overlaps: np.ndarray, neutral: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits (T, n), misses (T, n), and IoU (n,) of those that match at the first threshold.

    Args:
        overlaps: (n, k) of detections, by descending score, with objects that count.
        neutral: (n, m) with neutral ones.
    """
    hit = np.zeros((len(IOU_THRESHOLDS), len(overlaps)), bool)
    excused = np.zeros_like(hit)
    best = np.full(len(overlaps), np.nan)
    for t, threshold in enumerate(IOU_THRESHOLDS):
        free = overlaps.copy()
        for row in range(len(overlaps)):
            column = int(free[row].argmax()) if free.shape[1] else -1
            if column >= 0 and free[row, column] >= threshold:
                hit[t, row] = True
                if t == 0:
                    best[row] = free[row, column]
                free[:, column] = -1.0
            else:
                excused[t, row] = bool((neutral[row] >= threshold).any())
    return hit, ~hit & ~excused, best


def matched_residuals_3d(
    truth: Truth3D,
    records: Iterable[dict],
    score_thr: float = 0.3,
    iou_thr: float = 0.5,
    iou: Callable[..., np.ndarray] = box_iou_bev,
) -> Tensor:
    """Truth minus detection of the boxes of a frame that match an object, in the detection's frame.

    Along and across the detection, then the differences of z, l, w, h and yaw, that is
    ``(R(-yaw) (x, y), z, l, w, h, yaw)``. Headings that are half a turn wrong are not errors of a
    box, so the difference of yaw is that to the nearer of the two directions.

    Args:
        truth: annotations of the frame.
        records: detections, ``box`` (7,), ``score``, ``label``.
        score_thr: detections below this score are left out.
        iou_thr: smallest overlap of a match.
        iou: of boxes (n, 7) and (k, 7); from above by default, so that a wrong bottom does not
            hide a box.

    Returns:
        (m, 7) float32, metres and radians.
    """
    free = ~truth.neutral
    rows = [np.zeros((0, 7))]
    for each in sorted(records, key=lambda one: -one["score"]):
        allowed = np.flatnonzero(free & (truth.labels == each["label"]))
        if each["score"] < score_thr or not len(allowed):
            continue
        box = np.asarray(each["box"], np.float64)
        overlap = iou(box[None], truth.boxes[allowed])[0]
        best = int(overlap.argmax())
        if overlap[best] >= iou_thr:
            free[allowed[best]] = False
            rows.append(_in_frame_of(box, truth.boxes[allowed[best]])[None])
    found = torch.from_numpy(np.concatenate(rows)).float()
    return found[found.isfinite().all(1)]


def _in_frame_of(box: np.ndarray, other: np.ndarray) -> np.ndarray:
    difference = other - box
    cos, sin = np.cos(box[6]), np.sin(box[6])
    x, y = difference[:2]
    yaw = (difference[6] + np.pi / 2) % np.pi - np.pi / 2
    return np.array([cos * x + sin * y, cos * y - sin * x, *difference[2:6], yaw])
