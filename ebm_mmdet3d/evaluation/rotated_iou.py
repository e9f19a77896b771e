"""Overlaps of rotated boxes on the CPU, in bird's-eye view (BEV) and in 3D, in float64.

Two rectangles are intersected by clipping one by the four sides of the other, in the frame of the
other. In that frame the sides are parallel to the axes, so no two general lines are intersected,
and identical or touching boxes are not a special case.

Every box has a defined result: a box with a size that is not positive, or with a value that is NaN
or infinite, overlaps nothing, not even itself.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from numpy.typing import ArrayLike

__all__ = ["bev_overlaps_camera", "box_iou_3d", "box_iou_bev", "iou_3d_camera"]

# Clipping a convex polygon adds at most one vertex per side (4 + 4). With rounding, a sliver may
# seem not convex; a third of the bound for any polygon (3/2 per side: 4, 6, 9, 13, 19) is enough.
_MAX_VERTICES = 20
_PAIRS_PER_THREAD = 10_000  # some milliseconds


def box_iou_3d(boxes: ArrayLike, others: ArrayLike, aligned: bool = False) -> np.ndarray:
    """IoU of upright 3D boxes in the LiDAR convention, ``(x, y, z, l, w, h, yaw)``.

    Args:
        boxes: (N, 7) or wider (velocities are ignored). Metres; z is the bottom centre; yaw
            in radians, from x to y, so that ``l`` lies along (cos yaw, sin yaw).
        others: (K, 7) or wider, likewise.
        aligned: pair row i with row i; then N = K.

    Returns:
        (N, K) float64 in [0, 1], or (N,) if aligned.

    Raises:
        ValueError: a shape is wrong.
    """
    boxes, others = _pair(boxes, others, 7, aligned)
    footprint = [0, 1, 3, 4, 6]
    shared = _shared_areas(boxes[:, footprint], others[:, footprint], aligned)
    with np.errstate(invalid="ignore", over="ignore"):
        shared *= _shared_lengths(boxes[:, 2], boxes[:, 5], others[:, 2], others[:, 5], aligned)
        return _iou(shared, boxes[:, 3:6].prod(1), others[:, 3:6].prod(1), aligned)


def box_iou_bev(boxes: ArrayLike, others: ArrayLike, aligned: bool = False) -> np.ndarray:
    """IoU of the footprints of 3D boxes; arguments and result as in :func:`box_iou_3d`."""
    boxes, others = _pair(boxes, others, 7, aligned)
    footprint = [0, 1, 3, 4, 6]
    shared = _shared_areas(boxes[:, footprint], others[:, footprint], aligned)
    with np.errstate(invalid="ignore", over="ignore"):
        return _iou(shared, boxes[:, 3:5].prod(1), others[:, 3:5].prod(1), aligned)


def bev_overlaps_camera(
    boxes: ArrayLike, query_boxes: ArrayLike, criterion: int = -1, aligned: bool = False
) -> np.ndarray:
    """Overlaps of footprints in KITTI's camera frame.

    Interface and meaning are those of mmdet3d's `rotate_iou_gpu_eval`, which needs a GPU and gives
    0 for identical boxes with a rotation; the result here is float64.

    Args:
        boxes: (N, 5) ``(x, z, l, w, rotation_y)``, metres and radians; a positive angle turns from
            z to x, clockwise in the plane (x, z).
        query_boxes: (K, 5), likewise.
        criterion: with shared area I, area A of a box and B of a query box: -1 for
            I / (A + B - I), 0 for I / B, 1 for I / A (as in mmdet3d), any other value for I.
        aligned: pair row i with row i; then N = K.

    Returns:
        (N, K) float64, or (N,) if aligned: in [0, 1], or square metres.

    Raises:
        ValueError: a shape is wrong.
    """
    boxes, query_boxes = _pair(boxes, query_boxes, 5, aligned)
    shared = _shared_areas(_turned(boxes[:, :5]), _turned(query_boxes[:, :5]), aligned)
    with np.errstate(invalid="ignore", over="ignore"):
        areas, query_areas = _outer(boxes[:, 2:4].prod(1), query_boxes[:, 2:4].prod(1), aligned)
        if criterion == -1:
            return _ratio(shared, areas + query_areas - shared)
        if criterion in (0, 1):
            return _ratio(shared, areas if criterion else query_areas)
    return shared


def iou_3d_camera(boxes: ArrayLike, query_boxes: ArrayLike, aligned: bool = False) -> np.ndarray:
    """IoU of 3D boxes in KITTI's camera frame.

    Args:
        boxes: (N, 7) ``(x, y, z, l, h, w, rotation_y)``, metres and radians; y points down and is
            that of the bottom face.
        query_boxes: (K, 7), likewise.
        aligned: pair row i with row i; then N = K.

    Returns:
        (N, K) float64 in [0, 1], or (N,) if aligned.

    Raises:
        ValueError: a shape is wrong.
    """
    # Seen from above with y for z, with the opposite sense of rotation; up is -y.
    lidar = [0, 2, 1, 3, 5, 4, 6]
    signs = np.array([1.0, 1, -1, 1, 1, 1, -1])
    boxes, query_boxes = _pair(boxes, query_boxes, 7, aligned)
    return box_iou_3d(boxes[:, lidar] * signs, query_boxes[:, lidar] * signs, aligned)


def _pair(
    boxes: ArrayLike, others: ArrayLike, columns: int, aligned: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 arrays, after a check that they have at least ``columns`` columns."""
    boxes, others = np.asarray(boxes, np.float64), np.asarray(others, np.float64)
    for array in (boxes, others):
        if array.ndim != 2 or array.shape[1] < columns:
            raise ValueError(f"expected boxes of shape (n, {columns}), got {array.shape}.")
    if aligned and len(boxes) != len(others):
        raise ValueError(
            f"aligned=True pairs row i with row i, but there are {len(boxes)} and {len(others)} "
            "boxes; with aligned=False all are paired with all."
        )
    return boxes, others


def _turned(footprints: np.ndarray) -> np.ndarray:
    """Footprints (n, 5) with the sense of the angle reversed."""
    return footprints * np.array([1.0, 1, 1, 1, -1])


def _outer(first: np.ndarray, second: np.ndarray, aligned: bool) -> tuple[np.ndarray, np.ndarray]:
    return (first, second) if aligned else (first[:, None], second[None])


def _shared_lengths(
    low: np.ndarray,
    length: np.ndarray,
    other_low: np.ndarray,
    other_length: np.ndarray,
    aligned: bool,
) -> np.ndarray:
    """Lengths shared by the intervals [low, low + length] of both."""
    low, other_low = _outer(low, other_low, aligned)
    length, other_length = _outer(length, other_length, aligned)
    shared = np.minimum(low + length, other_low + other_length) - np.maximum(low, other_low)
    # A rounded difference must not exceed the lengths, or an IoU might exceed 1.
    shared = np.minimum(shared, np.minimum(length, other_length))
    return np.where(np.isfinite(shared) & (shared > 0), shared, 0)


def _iou(
    shared: np.ndarray, sizes: np.ndarray, other_sizes: np.ndarray, aligned: bool
) -> np.ndarray:
    sizes, other_sizes = _outer(sizes, other_sizes, aligned)
    return _ratio(shared, sizes + other_sizes - shared)


def _ratio(shared: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Shared / total, and 0 where nothing is shared, for any total."""
    total = np.broadcast_to(total, shared.shape)
    return np.divide(shared, total, out=np.zeros_like(shared), where=(shared > 0) & (total > 0))


def _shared_areas(first: np.ndarray, second: np.ndarray, aligned: bool) -> np.ndarray:
    """Shared areas of footprints ``(x, y, l, w, angle)``: (N, K), or (N,) if aligned."""
    first, second = np.ascontiguousarray(first), np.ascontiguousarray(second)
    kernel = _shared_areas_of_pairs if aligned else _shared_areas_of_all
    shared = np.empty(len(first) if aligned else (len(first), len(second)))
    parts = min(shared.size // _PAIRS_PER_THREAD, len(first), numba.config.NUMBA_NUM_THREADS)
    if parts < 2:
        kernel(first, second, shared)
        return shared
    rows = [slice(part[0], part[-1] + 1) for part in np.array_split(range(len(first)), parts)]
    # Not numba's own threads: those of OpenMP kill a process that is forked after they were used
    # (such as a worker of a data loader), and change the number of threads of torch.
    with ThreadPoolExecutor(parts) as pool:
        list(
            pool.map(lambda r: kernel(first[r], second[r] if aligned else second, shared[r]), rows)
        )
    return shared


_jit = numba.njit(error_model="numpy", nogil=True)


@_jit
def _clip(polygon, count, axis, sign, limit, clipped):
    """Clip to sign · p[axis] <= limit; returns the number of remaining vertices."""
    kept = 0
    other_axis = 1 - axis
    for i in range(count):
        j = i + 1 if i + 1 < count else 0
        inside = limit - sign * polygon[i, axis]
        next_inside = limit - sign * polygon[j, axis]
        if inside >= 0:
            clipped[kept, 0] = polygon[i, 0]
            clipped[kept, 1] = polygon[i, 1]
            kept += 1
        if (inside > 0 and next_inside < 0) or (inside < 0 and next_inside > 0):
            t = inside / (inside - next_inside)
            clipped[kept, axis] = sign * limit
            clipped[kept, other_axis] = polygon[i, other_axis] + t * (
                polygon[j, other_axis] - polygon[i, other_axis]
            )
            kept += 1
    return kept


@_jit
def _shared_area(a, b, polygon, scratch):
    """Area shared by two footprints (5,); the other two arguments are working memory."""
    for k in range(5):
        if not (math.isfinite(a[k]) and math.isfinite(b[k])):
            return 0.0
    if a[2] <= 0 or a[3] <= 0 or b[2] <= 0 or b[3] <= 0:
        return 0.0
    dx, dy = b[0] - a[0], b[1] - a[1]
    if math.hypot(dx, dy) >= 0.5 * (math.hypot(a[2], a[3]) + math.hypot(b[2], b[3])):
        return 0.0  # not even their circumscribed circles overlap

    # Corners of b, counter-clockwise, in the frame of a.
    cos_a, sin_a = math.cos(a[4]), math.sin(a[4])
    x, y = cos_a * dx + sin_a * dy, cos_a * dy - sin_a * dx
    cos_b, sin_b = math.cos(b[4] - a[4]), math.sin(b[4] - a[4])
    for k in range(4):
        p = 0.5 * b[2] if k == 0 or k == 3 else -0.5 * b[2]
        q = 0.5 * b[3] if k < 2 else -0.5 * b[3]
        polygon[k, 0] = x + cos_b * p - sin_b * q
        polygon[k, 1] = y + sin_b * p + cos_b * q

    count = _clip(polygon, 4, 0, 1.0, 0.5 * a[2], scratch)
    count = _clip(scratch, count, 0, -1.0, 0.5 * a[2], polygon)
    count = _clip(polygon, count, 1, 1.0, 0.5 * a[3], scratch)
    count = _clip(scratch, count, 1, -1.0, 0.5 * a[3], polygon)

    # Shoelace formula about the first vertex, which keeps small areas exact.
    twice = 0.0
    for k in range(2, count):
        x1, y1 = polygon[k - 1, 0] - polygon[0, 0], polygon[k - 1, 1] - polygon[0, 1]
        x2, y2 = polygon[k, 0] - polygon[0, 0], polygon[k, 1] - polygon[0, 1]
        twice += x1 * y2 - x2 * y1
    return max(0.0, min(0.5 * twice, a[2] * a[3], b[2] * b[3]))


@_jit
def _shared_areas_of_all(first, second, shared):
    polygon, scratch = np.empty((_MAX_VERTICES, 2)), np.empty((_MAX_VERTICES, 2))
    for i in range(len(first)):
        for j in range(len(second)):
            shared[i, j] = _shared_area(first[i], second[j], polygon, scratch)


@_jit
def _shared_areas_of_pairs(first, second, shared):
    polygon, scratch = np.empty((_MAX_VERTICES, 2)), np.empty((_MAX_VERTICES, 2))
    for i in range(len(first)):
        shared[i] = _shared_area(first[i], second[i], polygon, scratch)
