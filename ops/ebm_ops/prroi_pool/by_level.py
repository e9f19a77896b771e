"""Precise RoI pooling of boxes on several maps, as it is defined: map by map.

Each function is given the boxes of all levels, calls the function of one map with the boxes of each
level, and writes the results into the rows of those boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

OneMap = Callable[..., Tensor]


def forward(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    output_size: tuple[int, int],
    scales: Sequence[float],
    pool: OneMap,
) -> Tensor:
    """Pool; as often differentiable as `pool`.

    Args:
        features: L maps (B, C, H_l, W_l).
        rois: (N, 5), `batch_index, x1, y1, x2, y2` in image units.
        levels: (N,) int64 in `0..L - 1`.
        output_size: (h, w) bins.
        scales: feature cells per image unit on each map.
        pool: `reference.forward` or another function of its arguments.

    Returns:
        Tensor: (N, C, h, w) in the dtype of `features`.

    Raises:
        ValueError: a level is out of range.
    """
    pooled = features[0].new_zeros(rois.shape[0], features[0].shape[1], *output_size)
    for one, rows, scale in zip(features, _rows(levels, len(features)), scales):
        pooled.index_copy_(0, rows, pool(one, rois[rows], output_size, scale))
    return pooled


def grad_rois(
    grad: Tensor,
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    scales: Sequence[float],
    one_map: OneMap,
) -> Tensor:
    """`dL/d rois` (N, 5) of `dL/d pooled` (N, C, h, w); `one_map`: as `reference.grad_rois`."""
    result = torch.zeros_like(rois, memory_format=torch.contiguous_format)
    for one, rows, scale in zip(features, _rows(levels, len(features)), scales):
        result.index_copy_(0, rows, one_map(grad[rows], one, rois[rows], scale))
    return result


def grad_features(
    grad: Tensor,
    rois: Tensor,
    levels: Tensor,
    batch: int,
    sizes: Sequence[int],
    scales: Sequence[float],
    one_map: OneMap,
) -> list[Tensor]:
    """`dL/d features`, (B, C, H_l, W_l) each and channels last, of `dL/d pooled` (N, C, h, w).

    `sizes` are H_0, W_0, H_1, ...; `one_map`: as `reference.grad_features`.
    """
    members = zip(_rows(levels, len(scales)), sizes[::2], sizes[1::2], scales)
    return [one_map(grad[rows], rois[rows], batch, h, w, scale) for rows, h, w, scale in members]


def check_levels(levels: Tensor, count: int) -> None:
    """Raise `ValueError` unless all levels are in `0..count - 1`. Waits for a GPU."""
    if torch.compiler.is_compiling():
        return
    bad = (levels < 0) | (levels >= count)
    if bad.any():
        n = int(bad.nonzero()[0])
        raise ValueError(
            f"levels[{n}] is the map of rois[{n}] and must be in 0..{count - 1} for {count} maps, "
            f"got {int(levels[n])}"
        )


def _rows(levels: Tensor, count: int) -> list[Tensor]:
    """The rows of each level, in order."""
    check_levels(levels, count)
    return [(levels == level).nonzero().squeeze(1) for level in range(count)]
