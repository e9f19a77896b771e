"""Precise RoI pooling as matrix products with the whole map, for files without our operators.

The formula is that of :mod:`ebm_ops.prroi_pool.reference`. Where that cuts out the window of each
box, which needs the values of the boxes, this multiplies with the weights of all nodes of the map,
most of them zero. So it is a fixed graph of operations that every runtime knows (ONNX too), and
costs `N h_bins H W C` multiplications, whatever the size of the boxes.

Weights and their derivatives are the closed form that keeps its digits where bins are thin
(:func:`~ebm_ops.prroi_pool.reference.mean_of_hat`), because not every runtime has float64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_ops.prroi_pool.reference import by_sides, mean_of_hat
from ebm_ops.prroi_pool.windows import MIN_SIDE

__all__ = [
    "contract",
    "decompositions",
    "forward",
    "forward_levels",
    "grad_rois",
    "grad_rois_levels",
]


def decompositions() -> dict[torch._ops.OpOverload, Callable]:
    """Our operators of pooling in a refinement, and what computes the same without them.

    For `torch.export.ExportedProgram.run_decompositions`.
    """
    ops = torch.ops.ebm_ops
    return {
        ops.prroi_pool.default: forward,
        ops.prroi_pool_grad_rois.default: grad_rois,
        ops.prroi_pool_levels.default: forward_levels,
        ops.prroi_pool_levels_grad_rois.default: grad_rois_levels,
    }


def forward(
    features: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, scale: float
) -> Tensor:
    """Pool; the boxes may have any values, as in :func:`ebm_ops.prroi_pool`.

    Args:
        features: (B, C, H, W).
        rois: (N, 5) `batch_index, x1, y1, x2, y2` in image units.
        pooled_height: bins along y.
        pooled_width: bins along x.
        scale: feature cells per image unit.

    Returns:
        Tensor: (N, C, h, w) in the dtype of `features`.
    """
    x, y = _axes(rois, features, (pooled_height, pooled_width), scale)
    return contract(features, rois[:, 0], x.weights, y.weights)


def grad_rois(grad: Tensor, features: Tensor, rois: Tensor, scale: float) -> Tensor:
    """`dL/d rois` (N, 5) in closed form, column 0 is zero.

    Args:
        grad: (N, C, h, w), `dL/d pooled`.
        features: (B, C, H, W).
        rois: (N, 5).
        scale: feature cells per image unit.
    """
    _, _, h, w = grad.shape
    channels, rows, columns = features.shape[1:]
    x, y = _axes(rois, features, (h, w), scale)
    by_x, by_y = 0, 0
    upstream = grad.permute(0, 2, 3, 1).reshape(-1, h, w * channels)
    for index in range(features.shape[0]):
        vx, vy = _of_image(index, rois[:, 0], x.weights), y.weights
        across = _across(features[index], vx)  # (n, rows, w c)
        by_y = by_y + upstream @ across.transpose(1, 2)
        # The weights of the other axis are taken first, so that the map is read in one product.
        down = (vy.transpose(1, 2) @ upstream).reshape(-1, rows, w, channels)
        down = down.permute(0, 2, 1, 3).reshape(-1, rows * channels)
        image = features[index].permute(1, 0, 2).reshape(rows * channels, columns)
        here = (rois[:, 0] == index).to(grad.dtype)[:, None, None]
        by_x = by_x + (down @ image).reshape(-1, w, columns) * here
    slopes = [by_x * x.by_lower, by_y * y.by_lower, by_x * x.by_upper, by_y * y.by_upper]
    found = torch.stack([slope.sum((1, 2)) for slope in slopes], 1)
    return torch.cat([torch.zeros_like(found[:, :1]), found], 1).to(rois.dtype)


def forward_levels(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    pooled_height: int,
    pooled_width: int,
    scales: Sequence[float],
) -> Tensor:
    """Pool each box on the map of its level (N,), as :func:`ebm_ops.prroi_pool_levels`.

    Every map pools every box: those of other levels have no area there, and pool to zeros.
    """
    parts = [
        forward(one, _of_level(rois, levels, level), pooled_height, pooled_width, scale)
        for level, (one, scale) in enumerate(zip(features, scales))
    ]
    return functools.reduce(torch.add, parts)


def grad_rois_levels(
    grad: Tensor,
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    scales: Sequence[float],
) -> Tensor:
    """`dL/d rois` (N, 5) of :func:`forward_levels`."""
    parts = [
        grad_rois(grad, one, _of_level(rois, levels, level), scale)
        for level, (one, scale) in enumerate(zip(features, scales))
    ]
    return functools.reduce(torch.add, parts)


def _of_level(rois: Tensor, levels: Tensor, level: int) -> Tensor:
    return rois.where((levels == level)[:, None], 0)


def contract(features: Tensor, batch_index: Tensor, vx: Tensor, vy: Tensor) -> Tensor:
    """`sum_ij vy[n, p, i] F[i, j] vx[n, q, j]`, F the map of box n.

    Args:
        features: (B, C, H, W).
        batch_index: (N,) image of each box.
        vx: (N, w, W) weights of the columns.
        vy: (N, h, H) weights of the rows.

    Returns:
        Tensor: (N, C, h, w).
    """
    (w, _), h, channels = vx.shape[1:], vy.shape[1], features.shape[1]
    pooled = None
    for index in range(features.shape[0]):
        part = vy @ _across(features[index], _of_image(index, batch_index, vx))
        pooled = part if pooled is None else pooled + part
    return pooled.reshape(-1, h, w, channels).permute(0, 3, 1, 2).contiguous()


def _across(image: Tensor, vx: Tensor) -> Tensor:
    """(C, H, W) and (N, w, W) -> (N, H, w C): columns are summed up into bins."""
    channels, rows, columns = image.shape
    bins = vx.shape[1]
    across = vx.reshape(1, -1, columns) @ image.permute(1, 2, 0)  # (rows, n w, c)
    return across.reshape(rows, -1, bins * channels).transpose(0, 1)


def _of_image(index: int, batch_index: Tensor, weights: Tensor) -> Tensor:
    """The weights of boxes of this image; zeros for the others."""
    return weights * (batch_index == index).to(weights.dtype)[:, None, None]


class _Axis(NamedTuple):
    """Weights (n, bins, nodes) along an axis; derivatives by the box's sides in image units."""

    weights: Tensor
    by_lower: Tensor
    by_upper: Tensor


def _axes(
    rois: Tensor, features: Tensor, bins: tuple[int, int], scale: float
) -> tuple[_Axis, _Axis]:
    (rows, columns), (h, w) = features.shape[2:], bins
    boxes = rois[:, 1:].to(features.dtype)
    lower, upper = boxes[:, :2], boxes[:, 2:]
    # Before the product with the scale, whose rounding is as large as a thin side.
    sides, lower = (upper - lower) * scale, lower * scale
    # Comparisons with NaN are false, and the side of an infinite box is infinite or NaN.
    usable = ((sides >= MIN_SIDE) & (sides < torch.inf) & (lower.abs() < torch.inf)).all(1)
    (x, y), (wide, high) = lower.unbind(1), sides.unbind(1)
    return _axis(x, wide, w, columns, scale, usable), _axis(y, high, h, rows, scale, usable)


def _axis(lo: Tensor, side: Tensor, bins: int, nodes: int, scale: float, usable: Tensor) -> _Axis:
    lo = lo.where(usable, 0)[:, None, None]
    width = (side / bins).where(usable, 1)[:, None, None]
    # Distances are taken from the integer below `lo`: small numbers keep their digits.
    origin = lo.floor()
    offset, at = lo - origin, torch.arange(nodes, dtype=lo.dtype, device=lo.device) - origin
    left, middle, right = offset - (at - 1), offset - at, (at + 1) - offset
    number = torch.arange(bins, dtype=lo.dtype, device=lo.device)[:, None]
    edges = number * width, (number + 1) * width
    a, b = ((left + edge, middle + edge, right - edge) for edge in edges)
    value, by_a, by_b = mean_of_hat(a, b, width)
    mask = usable.to(lo.dtype)[:, None, None]
    return _Axis(*(each * mask for each in (value, *by_sides(by_a, by_b, scale))))
