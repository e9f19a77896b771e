"""Axis-aligned boxes, and an independent quadrature of precise RoI pooling."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

# Gauss-Legendre on [-1, 1], exact for polynomials of degree 5.
POINTS = torch.tensor([-math.sqrt(3 / 5), 0, math.sqrt(3 / 5)], dtype=torch.float64)
WEIGHTS = torch.tensor([5 / 9, 8 / 9, 5 / 9], dtype=torch.float64)


def random_rois(count: int, batch: int, extent: tuple[float, float], seed: int = 0, margin=0.15):
    """(count, 5) float64 boxes of all sizes, some leaving the (width, height) extent a little."""
    g = torch.Generator().manual_seed(seed)
    size = torch.tensor(extent, dtype=torch.float64)
    ends = torch.rand(count, 2, 2, generator=g, dtype=torch.float64) * (1 + 2 * margin) - margin
    ends = ends.sort(1).values
    ends[:, 1] += 0.05
    image = torch.randint(batch, (count, 1), generator=g).double()
    return torch.cat([image, (ends * size).flatten(1)], 1)


def interpolate(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear interpolation (C, len(y), len(x)) of (C, H, W) with zeros all around.

    Written with corner look-ups on a padded copy, unlike the code under test.
    """
    _, height, width = image.shape
    padded = F.pad(image, (2, 2, 2, 2))
    x, y = x.clamp(-1.5, width + 0.5), y.clamp(-1.5, height + 0.5)
    j, i = x.floor().long(), y.floor().long()
    fx, fy = x - j, (y - i)[:, None]
    rows, columns = (i + 2)[:, None], j + 2
    top = padded[:, rows, columns] * (1 - fx) + padded[:, rows, columns + 1] * fx
    bottom = padded[:, rows + 1, columns] * (1 - fx) + padded[:, rows + 1, columns + 1] * fx
    return top * (1 - fy) + bottom * fy


def nodes_and_weights(a: float, b: float) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre points on [a, b], cut at the integers, where the interpolant has its kinks."""
    inner = torch.arange(math.floor(a) + 1, math.ceil(b), dtype=torch.float64)
    cuts = torch.cat([inner.new_tensor([a]), inner, inner.new_tensor([b])])
    half, middle = cuts.diff()[:, None] / 2, (cuts[1:] + cuts[:-1])[:, None] / 2
    return (middle + half * POINTS).flatten(), (half * WEIGHTS).flatten()


def bin_quadrature(lo: float, hi: float, bins: int) -> tuple[Tensor, Tensor]:
    """Points (m,) of all bins of [lo, hi] and the weights (bins, m) of each bin's mean."""
    edges = torch.linspace(lo, hi, bins + 1, dtype=torch.float64).tolist()
    rules = [nodes_and_weights(a, b) for a, b in pairwise(edges)]
    means = [w / (b - a) for (_, w), (a, b) in zip(rules, pairwise(edges))]
    return torch.cat([points for points, _ in rules]), torch.block_diag(*means)


def integrate(features: Tensor, rois: Tensor, output_size, scale: float) -> Tensor:
    """PrRoIPool (N, C, h, w) by numerical integration of the interpolant, float64."""
    maps, out = features.double(), []
    for image, x1, y1, x2, y2 in rois.double().tolist():
        x, wx = bin_quadrature(x1 * scale, x2 * scale, output_size[1])
        y, wy = bin_quadrature(y1 * scale, y2 * scale, output_size[0])
        out.append(wy @ interpolate(maps[int(image)], x, y) @ wx.T)
    return torch.stack(out)
