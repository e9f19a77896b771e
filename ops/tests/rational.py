"""Precise RoI pooling with rational weights: what no rounding can spoil, however thin a bin is."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

THIN = (2e-5, 1e-4, 1e-3, 7e-3, 0.1)
"""Sides of boxes, in cells."""


def thin_boxes(side: float) -> Tensor:
    """Boxes (N, 5) with a thin side, float32: between nodes, on one, over one, and at the border.

    Coordinates are those of a map of stride 4; its size is 4 x 5.
    """
    starts = [1.3, 2.0, 2 - side / 3, 2 - side, -1 - side / 2, -1.0, 5 - side / 2, 4.9, 0.75]
    boxes = [(start, 0.4, start + side, 2.9) for start in starts]
    boxes += [(0.4, start, 3.9, start + side) for start in starts[:-2]]
    return torch.nn.functional.pad(4 * torch.tensor(boxes), (1, 0))


def pool(features: Tensor, rois: Tensor, size: tuple[int, int], scale: float, grad: Tensor):
    """Values (N, C, h, w) of one map (1, C, H, W) and the gradient (N, 5) to boxes, float64.

    `scale` is to be a power of two; everything is exact but the last sums over the pixels.
    """
    maps, values, slopes = features[0].double(), [], torch.zeros(len(rois), 5, dtype=torch.float64)
    for n, (_, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (Fraction(side) * Fraction(scale) for side in box)
        x, y = _weights(x1, x2, size[1], maps.shape[2]), _weights(y1, y2, size[0], maps.shape[1])
        values.append(y[0] @ maps @ x[0].T)
        pairs = ((x[1], y[0]), (x[0], y[1]), (x[2], y[0]), (x[0], y[2]))
        for column, (wx, wy) in enumerate(pairs, start=1):
            slopes[n, column] = scale * (wy @ maps @ wx.T * grad[n].double()).sum()
    return torch.stack(values), slopes


def _weights(lo: Fraction, hi: Fraction, bins: int, nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """V and its derivatives by the lower and the upper side of the box, (bins, nodes)."""
    edges = [lo + (hi - lo) * Fraction(k, bins) for k in range(bins + 1)]
    width, found = (hi - lo) / bins, torch.zeros(3, bins, nodes, dtype=torch.float64)
    for k in range(bins):
        for node in range(nodes):
            a, b = edges[k] - node, edges[k + 1] - node
            value = (_integral(b) - _integral(a)) / width
            by_a, by_b = (value - _hat(a)) / width, (_hat(b) - value) / width
            start, end = Fraction(k, bins), Fraction(k + 1, bins)
            lower, upper = (1 - start) * by_a + (1 - end) * by_b, start * by_a + end * by_b
            found[:, k, node] = torch.tensor(
                [float(each) for each in (value, lower, upper)], dtype=torch.float64
            )
    return found[0], found[1], found[2]


def _hat(t: Fraction) -> Fraction:
    return max(1 - abs(t), Fraction(0))


def _integral(t: Fraction) -> Fraction:
    t = min(max(t, Fraction(-1)), Fraction(1))
    return Fraction(1, 2) + t - t * abs(t) / 2
