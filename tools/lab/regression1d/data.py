"""The data sets of the 1D studies: seeded draws and their true densities."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["DATASETS", "Dataset", "draw_y", "load_dataset"]

NUM_TRAIN = 2000
X_RANGE = (-3.0, 3.0)

# Lengths of the four segments of the third set, in the order of x.
_UMAL_SEGMENTS = (800, 1000, 500, 1500)
_UMAL_SIZE = sum(_UMAL_SEGMENTS)
_UMAL_BOXES = ((8.0, 8.5), (1.0, 4.0), (-4.5, -3.0))


@dataclass(frozen=True)
class Dataset:
    """Pairs (x, y), and the density p(y | x) from which they were drawn."""

    name: str
    x: Tensor
    """(n,) float32 training inputs."""
    y: Tensor
    """(n,) float32 training targets."""
    test_x: Tensor
    """(t,) float32 inputs of fresh draws, or of the held-out part."""
    test_y: Tensor
    """(t,) float32 targets of the same draws."""
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    """The range of y; outside it, densities count as zero in every evaluation."""
    y_points: int
    """Points of the evaluation grid over ``y_range``, ends included."""
    true_log_density: Callable[[Tensor, Tensor], Tensor]
    """log p(y | x) of broadcastable tensors, in nats; -inf where the density is zero."""

    def checksum(self) -> str:
        """SHA-256 of the four arrays, as little-endian float32, shortened to 16 digits."""
        digest = hashlib.sha256()
        for array in (self.x, self.y, self.test_x, self.test_y):
            digest.update(array.numpy().astype("<f4").tobytes())
        return digest.hexdigest()[:16]


def load_dataset(name: str) -> Dataset:
    """Draw a data set; every call gives the same numbers.

    ``"1"``, ``"2"``: 2000 pairs each, x ~ U(-3, 3), and 2000 more for testing. The paper's draws
    are not in its repository, so these are our own.

        1:  x < 0:  0.8 N(sin x, 0.075²) + 0.2 N(-sin x, 0.075²);   x >= 0:  LogNormal(0, 0.25) - 1
        2:  N(sin x, s(x)²),  s(x) = 0.15 / (1 + e^-x)

    ``"umal"``: the four-piece set on [0, 1] used by "Learning Proposals for Practical Energy-Based
    Regression" (arXiv:2110.11948), first in Brando et al., "Modelling heterogeneous distributions
    with an Uncountable Mixture of Asymmetric Laplacians", NeurIPS 2019: 3800 points, of which half
    are for testing, and a tenth of the rest is left out (a validation part that is not used).

    Source of 1 and 2: Gustafsson et al., BMVC 2020 (arXiv:2005.01698), 1D regression.

    Raises:
        ValueError: the name is another one.
    """
    if name in ("1", "2"):
        # RandomState is the generator whose stream NumPy guarantees not to change.
        rng = np.random.RandomState(20200 + int(name))
        x = rng.uniform(*X_RANGE, 2 * NUM_TRAIN).astype(np.float32)
        y = draw_y(name, x, rng)
        arrays = (x[:NUM_TRAIN], y[:NUM_TRAIN], x[NUM_TRAIN:], y[NUM_TRAIN:])
        density, x_range, y_range, y_points = _DENSITIES[name], X_RANGE, (-3.0, 3.0), 2048
    elif name == "umal":
        arrays = _draw_umal(np.random.RandomState(41))
        density, x_range, y_range, y_points = _umal_log_density, (0.0, 1.0), (-12.5, 12.5), 8192
    else:
        raise ValueError(f"dataset {name!r} is unknown; choose from {', '.join(DATASETS)}.")
    tensors = [torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)) for a in arrays]
    return Dataset(name, *tensors, x_range, y_range, y_points, density)


def draw_y(name: str, x: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """One y (n,) float32 for each x (n,), of data set ``"1"`` or ``"2"``."""
    x = x.astype(np.float64)
    normal = rng.standard_normal(len(x))
    if name == "2":
        return (np.sin(x) + 0.15 / (1 + np.exp(-x)) * normal).astype(np.float32)
    sign = np.where(rng.uniform(size=len(x)) < 0.8, 1.0, -1.0)
    bimodal = sign * np.sin(x) + 0.075 * normal
    return np.where(x < 0, bimodal, np.exp(0.25 * normal) - 1).astype(np.float32)


def _log_normal(y: Tensor, mean: Tensor, std: Tensor | float) -> Tensor:
    std = torch.as_tensor(std, dtype=y.dtype)
    return -0.5 * ((y - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)


def _log_density_1(x: Tensor, y: Tensor) -> Tensor:
    modes = [
        math.log(share) + _log_normal(y, sign * x.sin(), 0.075)
        for share, sign in ((0.8, 1.0), (0.2, -1.0))
    ]
    log_z = (y + 1).clamp(min=1e-30).log()
    skewed = _log_normal(log_z, torch.zeros_like(x), 0.25) - log_z
    return torch.where(x < 0, torch.logaddexp(*modes), skewed.where(y > -1, -torch.inf))


def _log_density_2(x: Tensor, y: Tensor) -> Tensor:
    return _log_normal(y, x.sin(), 0.15 * x.sigmoid())


_DENSITIES = {"1": _log_density_1, "2": _log_density_2}


def _draw_umal(rng: np.random.RandomState) -> tuple[np.ndarray, ...]:
    n1, n2, n3, n4 = _UMAL_SEGMENTS
    mean = 3 * np.cos(np.linspace(0, 5, n2)) - 2
    pieces = [
        5 * rng.beta(0.5, 1, n1) + 0.5,
        mean + np.abs(mean / 4) * rng.standard_normal(n2),
        rng.uniform(np.linspace(-2, -4.5, n3), np.linspace(-0.5, 9, n3)),
        rng.permutation(np.concatenate([rng.uniform(*box, n4 // 3) for box in _UMAL_BOXES])),
    ]
    x, y = np.arange(_UMAL_SIZE) / (_UMAL_SIZE - 1), np.concatenate(pieces)
    order = rng.permutation(_UMAL_SIZE)
    x, y, half = x[order], y[order], _UMAL_SIZE // 2
    num_validation = half // 10
    return x[half + num_validation :], y[half + num_validation :], x[:half], y[:half]


def _umal_log_density(x: Tensor, y: Tensor) -> Tensor:
    index = (x * (_UMAL_SIZE - 1)).round()
    n1, n2, n3, _ = _UMAL_SEGMENTS
    t2 = (index - n1).clamp(0, n2 - 1) / (n2 - 1)
    t3 = (index - n1 - n2).clamp(0, n3 - 1) / (n3 - 1)

    unit = (y - 0.5) / 5  # Beta(1/2, 1) has the density 1 / (2 sqrt u)
    inside = (unit > 0) & (unit <= 1)
    beta = (-0.5 * unit.clamp(min=1e-30).log() - math.log(10)).where(inside, -torch.inf)
    mean = 3 * (5 * t2).cos() - 2
    wave = _log_normal(y, mean, (mean / 4).abs())
    low, high = -2 - 2.5 * t3, -0.5 + 9.5 * t3
    fan = (-(high - low).log()).where((y >= low) & (y <= high), -torch.inf)
    boxes = torch.zeros_like(y)
    for left, right in _UMAL_BOXES:
        boxes = boxes + ((y >= left) & (y <= right)) / (3 * (right - left))
    result = torch.where(index < n1 + n2 + n3, fan, boxes.log())
    result = torch.where(index < n1 + n2, wave, result)
    return torch.where(index < n1, beta, result)


DATASETS = ("1", "2", "umal")
