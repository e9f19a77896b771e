"""Objects without annotation, and annotations without object, as far as detector and f agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from ...box_iou import box_iou

__all__ = ["Presence", "certainty", "presence"]

SAME_OBJECT = 0.3
"""IoU from which a detection and an annotation are about one object. It is low: an annotation that
is badly located is another matter, and is ranked elsewhere."""
APART = 0.1
"""IoU of two detections below which they are two objects, even in one annotation."""
LEAST_SCORE = 0.3
"""Detections below are not proposed as objects."""


@dataclass(frozen=True)
class Presence:
    """Of an image with n annotations and d detections."""

    support: np.ndarray
    """(n,) in [0, 1]: largest score times IoU of a detection of the same class."""
    match: np.ndarray
    """(n,) the detection that is matched to each annotation one to one, or -1."""
    missing: np.ndarray
    """Detections that no annotation, crowd or better detection is about, by descending score; of
    two objects with one annotation around both, that to which it fits less."""


def presence(
    boxes: np.ndarray,
    labels: np.ndarray,
    others: np.ndarray,
    found: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
) -> Presence:
    """Compare annotations and detections of an image.

    Args:
        boxes: (n, 4) annotations.
        labels: (n,) their classes.
        others: (m, 4) crowds and other boxes, in which nothing is missing.
        found: (d, 4) detections.
        scores: (d,)
        classes: (d,)
    """
    iou = box_iou(boxes[:, None], found[None]) if len(found) else np.zeros((len(boxes), 0))
    same = labels[:, None] == classes[None]
    support = np.where(same, iou * scores, 0).max(1, initial=0.0)
    match = np.full(len(boxes), -1)
    if iou.size:
        worth = np.where(same & (iou >= SAME_OBJECT), iou, 0)
        for row, column in zip(*linear_sum_assignment(-worth)):
            if worth[row, column] > 0:
                match[row] = column
    covered = iou.max(0, initial=0.0) >= SAME_OBJECT
    if covered.any():
        # Two detections side by side in one annotation: it is about one of them at most.
        owner = match[iou.argmax(0)]
        apart = box_iou(found, found[owner]) < APART
        covered &= ~(apart & (owner >= 0))
    if len(others) and len(found):
        low = np.maximum(others[:, None, :2], found[None, :, :2])
        high = np.minimum(others[:, None, 2:], found[None, :, 2:])
        shared = np.clip(high - low, 0, None).prod(-1)
        area = np.clip(found[:, 2:] - found[:, :2], 1e-9, None).prod(-1)
        covered |= (shared / area).max(0) >= 0.5
    missing: list[int] = []
    for k in np.argsort(-scores, kind="stable"):
        if scores[k] < LEAST_SCORE:
            break
        again = len(missing) and box_iou(found[k], found[missing]).max() >= SAME_OBJECT
        if not covered[k] and not again:
            missing.append(int(k))
    return Presence(support, match, np.array(missing, int))


def certainty(spread: np.ndarray, boxes: np.ndarray, usual: float) -> np.ndarray:
    """(n,) in [0, 1]: how sharp f is around boxes, 1 from the usual sharpness of objects on.

    Where there is no object f is flat, and its spread relative to the box's size is large.

    Args:
        spread: (n, 4) of the sides in pixels.
        boxes: (n, 4)
        usual: median of :func:`relative_spread` of annotations that a detection confirms.
    """
    return np.clip(usual / np.maximum(relative_spread(spread, boxes), 1e-9), 0, 1)


def relative_spread(spread: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(n,) mean spread of the sides (n, 4), each relative to the box's size along its axis."""
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-9)
    return (spread / np.tile(size, (1, 2))).mean(1)
