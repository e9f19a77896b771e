"""Boxes, maps and an independent quadrature shared by the tests of the operators."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from ebm_ops import backend_info

HAS_CPP = backend_info()["cpu"].name == "cpp"


@pytest.fixture(params=["cpp", "reference"])
def backend(request) -> str:
    """Every implementation that serves CPU tensors here."""
    if request.param == "cpp" and not HAS_CPP:
        pytest.skip(f"no C++ backend: {backend_info()['cpu'].why}")
    return request.param


def random_rois(count: int, batch: int, extent: tuple[float, float], seed: int = 0, margin=0.15):
    """(count, 5) float64 boxes of all sizes, some leaving the (width, height) extent a little."""
    g = torch.Generator().manual_seed(seed)
    size = torch.tensor(extent, dtype=torch.float64)
    ends = torch.rand(count, 2, 2, generator=g, dtype=torch.float64) * (1 + 2 * margin) - margin
    ends = ends.sort(1).values
    ends[:, 1] += 0.05
    image = torch.randint(batch, (count, 1), generator=g).double()
    return torch.cat([image, (ends * size).flatten(1)], 1)


def interpolate(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear interpolation (C, len(y), len(x)) of (C, H, W) with zeros all around.

    Written with corner look-ups on a padded copy, unlike the code under test.
    """
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (2, 2), (2, 2)))
    x, y = np.clip(x, -1.5, width + 0.5), np.clip(y, -1.5, height + 0.5)
    j, i = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = x - j, (y - i)[:, None]
    rows, columns = (i + 2)[:, None], j + 2
    top = padded[:, rows, columns] * (1 - fx) + padded[:, rows, columns + 1] * fx
    bottom = padded[:, rows + 1, columns] * (1 - fx) + padded[:, rows + 1, columns + 1] * fx
    return top * (1 - fy) + bottom * fy


def nodes_and_weights(a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre points on [a, b], cut at the integers, where the interpolant has its kinks."""
    cuts = np.concatenate([[a], np.arange(np.floor(a) + 1, np.ceil(b)), [b]])
    points, weights = np.polynomial.legendre.leggauss(3)
    half, middle = np.diff(cuts)[:, None] / 2, (cuts[1:] + cuts[:-1])[:, None] / 2
    return (middle + half * points).ravel(), (half * weights).ravel()


def bin_quadrature(lo: float, hi: float, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (m,) of all bins of [lo, hi] and the weights (bins, m) of each bin's mean."""
    edges = np.linspace(lo, hi, bins + 1)
    rules = [nodes_and_weights(a, b) for a, b in pairwise(edges)]
    weights = np.zeros((bins, sum(len(points) for points, _ in rules)))
    start = 0
    for k, (points, w) in enumerate(rules):
        weights[k, start : start + len(points)] = w / (edges[k + 1] - edges[k])
        start += len(points)
    return np.concatenate([points for points, _ in rules]), weights


def integrate(features: torch.Tensor, rois: torch.Tensor, output_size, scale: float):
    """PrRoIPool (N, C, h, w) by numerical integration of the interpolant, float64."""
    maps, out = features.double().numpy(), []
    for image, x1, y1, x2, y2 in rois.double().numpy():
        x, wx = bin_quadrature(x1 * scale, x2 * scale, output_size[1])
        y, wy = bin_quadrature(y1 * scale, y2 * scale, output_size[0])
        out.append(wy @ interpolate(maps[int(image)], x, y) @ wx.T)
    return torch.from_numpy(np.stack(out))
