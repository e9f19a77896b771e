"""KITTI's average precision (AP) of boxes in the image, in bird's-eye view (BEV) and in 3D.

The protocol of the KITTI object benchmark (Geiger et al., CVPR 2012), for any IoU thresholds:

- Difficulty. An object counts as easy, moderate or hard if its image box is higher than 40, 25,
  25 pixels, its occlusion at most 0, 1, 2 and its truncation at most 0.15, 0.3, 0.5.
- Neutral objects and detections are neither right nor wrong: objects that do not count, vans for
  cars, sitting persons for pedestrians, and detections of any class that are lower in the image
  than the smallest height.
- A detection finds an object if their IoU is above the threshold, each at most one; detections
  that find none are false. In the image, but not in BEV or 3D, DontCare regions absorb false
  detections.
- Precision is computed at the scores at which the recall passes 0, 1/40, ..., 1, and made monotone:
  p_i is the best precision at that recall or above, 0 where it is never reached.

With fewer than 41 objects some of the 41 recalls have no score of their own, so a perfect result
stays below 100. This, too, is part of the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .kitti_matching import NUM_POSITIONS, matches, score_thresholds, scores_of_hits
from .rotated_iou import bev_overlaps_camera, iou_3d_camera

__all__ = ["DIFFICULTIES", "RECALL_POSITIONS", "KittiPrecision", "kitti_precision"]

DIFFICULTIES = ("easy", "moderate", "hard")
MIN_HEIGHT = (40, 25, 25)  # pixels
MAX_OCCLUSION = (0, 1, 2)
MAX_TRUNCATION = (0.15, 0.3, 0.5)
NEUTRAL_CLASS = {"car": "van", "pedestrian": "person_sitting"}
RECALL_POSITIONS = {11: slice(0, None, 4), 40: slice(1, None), 41: slice(None)}
"""The precisions, out of 41, of which AP11, AP40 and AP41 are the means."""

# Pairs of boxes whose overlap is computed at once, which bounds the memory (about 100 MB).
_PAIRS_AT_ONCE = 500_000


@dataclass(frozen=True)
class KittiPrecision:
    """Precision of one class at 41 recalls.

    Attributes:
        metrics: the E requested ones of ``bbox``, ``bev``, ``3d``.
        iou_thresholds: T IoU thresholds.
        num_objects: (3,) number of objects that count, per difficulty.
        precision: (E, 3, T, 41) p_0 ... p_40 in [0, 1]; NaN for a difficulty without objects.
        recall: (E, 3, T, 41) recall in [0, 1] at the scores of these precisions.
    """

    metrics: tuple[str, ...]
    iou_thresholds: tuple[float, ...]
    num_objects: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    def average_precision(self, positions: int = 40) -> np.ndarray:
        """AP in percent, (E, 3, T), from the precisions p_0 ... p_40 at recall i / 40.

            AP11 = 100 Σ p_4i / 11,   AP40 = 100 Σ_{i>0} p_i / 40,   AP41 = 100 Σ p_i / 41

        The KITTI server reports AP40; until 2019 it reported AP11. AP41 is printed by the code of
        SA-SSD and of "Accurate 3D Object Detection using Energy-Based Models", whose Tables II and
        III contain it: AP41 = (40 AP40 + 100 p_0) / 41.

        Raises:
            ValueError: ``positions`` is not 11, 40 or 41.
        """
        if positions not in RECALL_POSITIONS:
            raise ValueError(f"positions={positions!r}; expected 11, 40 or 41.")
        return 100 * self.precision[..., RECALL_POSITIONS[positions]].mean(-1)


def kitti_precision(
    ground_truth: Sequence[Mapping],
    detections: Sequence[Mapping],
    class_names: Sequence[str],
    iou_thresholds: Sequence[float],
    metrics: Sequence[str] = ("bev", "3d"),
) -> dict[str, KittiPrecision]:
    """Evaluate detections by the protocol above.

    Args:
        ground_truth: one mapping per frame, of n objects: ``name`` (n,), ``occluded`` (n,),
            ``truncated`` (n,), ``bbox`` (n, 4) ``(x1, y1, x2, y2)`` in pixels and, for BEV and 3D,
            ``location`` (n, 3) ``(x, y, z)`` in metres in the camera frame, y down and at the
            bottom face, ``dimensions`` (n, 3) ``(l, h, w)``, ``rotation_y`` (n,). More keys are
            allowed; mmdet3d calls such mappings KITTI annotations. Of regions with the name
            DontCare only ``bbox`` is used.
        detections: the same frames, with ``score`` (n,) and without ``occluded, truncated``. A
            detection whose score is NaN is left out; one whose box is NaN overlaps nothing.
        class_names: classes to evaluate, in upper or lower case.
        iou_thresholds: IoU that a detection must exceed, in [0, 1).
        metrics: some of ``bbox``, ``bev``, ``3d``.

    Returns:
        The precision of each class, by its name.

    Raises:
        ValueError: lengths do not agree, a threshold is not in [0, 1), a metric is unknown, or an
            array has the wrong shape.
    """
    if len(ground_truth) != len(detections):
        raise ValueError(
            f"{len(ground_truth)} frames of ground truth, but {len(detections)} of detections; "
            "give one mapping per frame to both, empty arrays where there is nothing."
        )
    for threshold in iou_thresholds:
        if not 0 <= threshold < 1:
            raise ValueError(f"IoU threshold {threshold!r}; expected 0 <= threshold < 1.")
    for metric in metrics:
        if metric not in ("bbox", "bev", "3d"):
            raise ValueError(f"metric {metric!r}; expected 'bbox', 'bev' or '3d'.")

    objects = _Boxes(ground_truth, ("occluded", "truncated"), solid={*metrics} != {"bbox"})
    found = _Boxes(detections, ("score",), solid={*metrics} != {"bbox"})
    shape = (len(metrics), len(DIFFICULTIES), len(iou_thresholds), NUM_POSITIONS)
    results = {
        name: KittiPrecision(
            tuple(metrics),
            tuple(map(float, iou_thresholds)),
            np.array([(_object_status(objects, name, d) == 0).sum() for d in range(3)]),
            np.full(shape, np.nan),
            np.full(shape, np.nan),
        )
        for name in class_names
    }
    for e, metric in enumerate(metrics):
        pairs = _overlapping_pairs(metric, objects, found, min(iou_thresholds, default=0))
        covered = _dont_care_overlap(objects, found) if metric == "bbox" else np.zeros(len(found))
        for name, result in results.items():
            for d in np.flatnonzero(result.num_objects):
                status = _object_status(objects, name, d), _detection_status(found, name, d)
                for t, threshold in enumerate(iou_thresholds):
                    result.precision[e, d, t], result.recall[e, d, t] = _precision_recall(
                        pairs, *status, found.score, covered > threshold, threshold
                    )
    return results


class _Boxes:
    """The boxes of all frames, concatenated; those of frame k start at ``start[k]``."""

    def __init__(self, frames: Sequence[Mapping], fields: Sequence[str], solid: bool) -> None:
        counts = [len(frame["name"]) for frame in frames]
        self.start = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        names = [str(name).lower() for frame in frames for name in frame["name"]]
        self.name = np.array(names, dtype=object)
        self.bbox = self._gather(frames, "bbox", 4)
        self.height = np.abs(self.bbox[:, 3] - self.bbox[:, 1])
        if solid:
            parts = (("location", 3), ("dimensions", 3), ("rotation_y", 1))
            self.solid = np.hstack([self._gather(frames, key, width) for key, width in parts])
        for field in fields:
            setattr(self, field, self._gather(frames, field, 1)[:, 0])

    def __len__(self) -> int:
        return len(self.name)

    def _gather(self, frames: Sequence[Mapping], key: str, width: int) -> np.ndarray:
        """(n, width) float64 of all frames."""
        rows = [np.zeros((0, width))]
        for k, frame in enumerate(frames):
            count = self.start[k + 1] - self.start[k]
            array = np.asarray(frame[key], dtype=float)
            if array.shape != ((count,) if width == 1 else (count, width)) and array.size:
                raise ValueError(
                    f"{key} of frame {k} has shape {array.shape}; expected "
                    f"({count}{f', {width}' if width > 1 else ''}), as it has {count} names."
                )
            rows.append(array.reshape(count, width))
        return np.concatenate(rows)


def _object_status(objects: _Boxes, class_name: str, difficulty: int) -> np.ndarray:
    """(n,) 0: counts, 1: neutral, -1: of another class."""
    class_name = class_name.lower()
    same = objects.name == class_name
    too_hard = (
        (objects.occluded > MAX_OCCLUSION[difficulty])
        | (objects.truncated > MAX_TRUNCATION[difficulty])
        | (objects.height <= MIN_HEIGHT[difficulty])
    )
    neutral = (objects.name == NEUTRAL_CLASS.get(class_name)) | (same & too_hard)
    return np.where(neutral, 1, np.where(same, 0, -1))


def _detection_status(found: _Boxes, class_name: str, difficulty: int) -> np.ndarray:
    """(n,) 0: counts, 1: neutral, -1: not used."""
    # Height is checked before class, because KITTI lets even a low box of another class match.
    low = found.height < MIN_HEIGHT[difficulty]
    status = np.where(low, 1, np.where(found.name == class_name.lower(), 0, -1))
    return np.where(np.isnan(found.score), -1, status)


def _overlapping_pairs(
    metric: str, objects: _Boxes, found: _Boxes, floor: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Object, detection and IoU of all pairs in a frame above an IoU; sorted in this order."""
    num_objects, num_found = np.diff(objects.start), np.diff(found.start)
    num_pairs = num_objects * num_found
    kept = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    # As many whole frames as have about that many pairs together.
    batch = np.cumsum(num_pairs) // _PAIRS_AT_ONCE
    for frames in np.split(np.arange(len(num_pairs)), np.flatnonzero(np.diff(batch)) + 1):
        frame = np.repeat(frames, num_pairs[frames])
        first = np.cumsum(num_pairs[frames]) - num_pairs[frames]
        within = np.arange(len(frame)) - np.repeat(first, num_pairs[frames])
        i = objects.start[frame] + within // num_found[frame]
        j = found.start[frame] + within % num_found[frame]
        if metric == "bbox":
            overlap = _image_overlaps(found.bbox[j], objects.bbox[i], of_first=False)
        elif metric == "bev":
            ground = [0, 2, 3, 5, 6]
            overlap = bev_overlaps_camera(
                found.solid[j][:, ground], objects.solid[i][:, ground], aligned=True
            )
        else:
            overlap = iou_3d_camera(found.solid[j], objects.solid[i], aligned=True)
        high = overlap > floor
        kept.append((i[high], j[high], overlap[high]))
    return tuple(np.concatenate(column) for column in zip(*kept))


def _image_overlaps(boxes: np.ndarray, others: np.ndarray, of_first: bool) -> np.ndarray:
    """Shared area of rows i over their union, or over the area of the first; boxes xyxy."""
    with np.errstate(invalid="ignore", over="ignore"):
        sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
        shared = np.where((sides > 0).all(1), sides.prod(1), 0)
        total = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        if not of_first:
            total = total + (others[:, 2:] - others[:, :2]).prod(1) - shared
    return np.divide(shared, total, out=np.zeros_like(shared), where=(shared > 0) & (total > 0))


def _dont_care_overlap(objects: _Boxes, found: _Boxes) -> np.ndarray:
    """(n,) largest fraction of each detection's image box that one DontCare region covers."""
    covered = np.zeros(len(found))
    for region in np.flatnonzero(objects.name == "dontcare"):
        frame = np.searchsorted(objects.start, region, side="right") - 1
        rows = slice(found.start[frame], found.start[frame + 1])
        box = np.broadcast_to(objects.bbox[region], found.bbox[rows].shape)
        share = _image_overlaps(found.bbox[rows], box, of_first=True)
        covered[rows] = np.maximum(covered[rows], share)
    return covered


def _precision_recall(
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray],
    object_status: np.ndarray,
    detection_status: np.ndarray,
    score: np.ndarray,
    absorbed: np.ndarray,
    iou_threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Precision (41,), monotone, and recall (41,) of one class, difficulty and threshold."""
    i, j, overlap = pairs
    use = (overlap > iou_threshold) & (object_status[i] >= 0) & (detection_status[j] >= 0)
    i, j, overlap = i[use], j[use], overlap[use]
    objects_neutral, detections_neutral = object_status == 1, detection_status == 1
    num_objects = int((object_status == 0).sum())

    hits = scores_of_hits(i, j, objects_neutral, detections_neutral, score)
    cuts = score_thresholds(np.sort(hits)[::-1], num_objects)
    counts = matches(i, j, overlap, objects_neutral, detections_neutral, score, absorbed, cuts)
    hit, excused, matched, matched_absorbed = counts.T

    # A false detection counts, is above the cut, is not matched, and lies in no DontCare region.
    counted = detection_status == 0
    false = _num_above(score[counted], cuts) - matched
    false -= _num_above(score[counted & absorbed], cuts) - matched_absorbed
    precision, recall = np.zeros(NUM_POSITIONS), np.zeros(NUM_POSITIONS)
    for curve, total in ((precision, hit + false), (recall, num_objects - excused)):
        best = np.divide(hit, total, out=np.zeros(len(cuts)), where=total > 0)
        curve[: len(cuts)] = np.maximum.accumulate(best[::-1])[::-1]
    return precision, recall


def _num_above(scores: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """The number of scores that are at least as high as each cut."""
    return len(scores) - np.searchsorted(np.sort(scores), cuts, side="left")
