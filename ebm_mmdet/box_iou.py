"""Intersection over union of axis-parallel boxes, in numpy."""

from __future__ import annotations

import numpy as np

__all__ = ["box_iou"]


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of corresponding boxes, 0 where both are empty.

    Args:
        first: (..., 4) ``(x1, y1, x2, y2)``, half open.
        second: boxes of a shape that broadcasts with ``first``: (n, 4) and (n, 4) are n pairs.

    Returns:
        (...) float64 in [0, 1].
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (first, second)]
    return shared / np.maximum(sum(areas) - shared, np.finfo(float).tiny)
