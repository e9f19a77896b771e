"""A predicted density as weighted points: means, medians, modes, intervals, samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..energy import (
    LogDensityFn,
    gradient_ascent,
    importance_covariance,
    importance_mean,
    resample,
)
from .target_codec import TargetCodec

__all__ = ["Posterior", "weighted_quantiles"]


class Posterior(NamedTuple):
    """The densities of N images, in standardised coordinates."""

    points: Tensor
    """(N, M, D) points inside the support."""
    weights: Tensor
    """(N, M) probabilities of the points, sum 1; a candidate for the mode alone has 0."""
    log_density: LogDensityFn
    """f of the N images; -inf outside the support."""
    log_f: Tensor
    """(N, M) f at the points."""
    log_z: Tensor
    """(N,) log ∫ exp f over the support: log p = f - log Z, in nats."""
    ess: Tensor | None
    """(N,) effective number of samples behind ``log_z``; None where it is not sampled."""
    codec: TargetCodec
    climb_steps: int = 20
    """Steps of :meth:`mode`; 0 for a density that is constant in cells."""

    def mean(self) -> Tensor:
        """(N, D) mean; of a periodic coordinate the circular one."""
        return self.codec.wrap(importance_mean(self.points, self.weights, self._angles()))

    def std(self) -> Tensor:
        """(N, D) standard deviation about the mean; of angles, of the wrapped differences."""
        covariance = importance_covariance(self.points, self.weights, self.mean(), self._angles())
        return covariance.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        """(N, L, D) quantiles of each coordinate; see :func:`weighted_quantiles`.

        A circle is cut opposite to the circular mean; its quantiles increase, hence are not
        wrapped.
        """
        if not self.codec.is_periodic:
            return weighted_quantiles(self.points, self.weights, levels)
        centre = self.mean().unsqueeze(1)
        relative = self.codec.difference(self.points, centre)
        return centre + weighted_quantiles(relative, self.weights, levels)

    def intervals(self, levels: Sequence[float]) -> Tensor:
        """(N, L, 2, D) central intervals that hold these probabilities in each coordinate."""
        sides = [side for level in levels for side in ((1 - level) / 2, (1 + level) / 2)]
        return self.quantiles(sides).unflatten(1, (len(levels), 2))

    def median(self) -> Tensor:
        """(N, D) median of each coordinate, the point with the least mean absolute error."""
        return self.codec.wrap(self.quantiles([0.5]).squeeze(1))

    def mode(self) -> Tensor:
        """(N, D) a maximum of the density: gradient ascent from the point with the largest f.

        The first step is the variance of the density, and failed steps are halved, so there is
        nothing to tune. f never falls; points stay inside the support.
        """
        if not len(self.points):
            return self.points.new_zeros(0, self.codec.dim)
        best = self.log_f.argmax(1)[:, None, None].expand(-1, 1, self.codec.dim)
        start = self.points.gather(1, best).squeeze(1)
        step = self.std().square()
        climbed = gradient_ascent(
            self.log_density, start, step, self.climb_steps, project=self.codec.project
        )
        return climbed.y

    def samples(self, num_samples: int, seed: int = 0) -> Tensor:
        """(N, S, D) approximate samples: points drawn with their probabilities.

        Every image uses the same seed, so that its samples do not depend on the others.
        """
        draws = [
            resample(
                self.points[i : i + 1],
                self.weights[i : i + 1],
                num_samples,
                torch.Generator(self.points.device).manual_seed(seed),
            )
            for i in range(len(self.points))
        ]
        none = self.points.new_zeros(0, num_samples, self.codec.dim)
        return torch.cat([none, *draws])

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density (N, S) at points z (N, S, D), normalised over the support, in nats."""
        if not len(z):
            return z.new_zeros(z.shape[:2])
        return self.log_density(z) - self.log_z.unsqueeze(1)

    def _angles(self) -> Tensor | None:
        return self.codec.periodic_mask if self.codec.is_periodic else None


def weighted_quantiles(y: Tensor, weights: Tensor, levels: Sequence[float]) -> Tensor:
    """The smallest of the points at which the summed weight reaches each level, per coordinate.

        Q(p) = min { y_m : Σ_{y_j ≤ y_m} w_j ≥ p }

    NumPy calls this ``method="inverted_cdf"``.

    Args:
        y: (N, M, D) points.
        weights: (N, M), sum 1 over M.
        levels: L numbers p in [0, 1].

    Returns:
        (N, L, D).
    """
    n, m, dim = y.shape
    if n == 0:
        return y.new_zeros(0, len(levels), dim)
    ordered, order = y.mT.sort(-1)  # (N, D, M)
    # Sums of many small weights need more than float32.
    cumulated = weights.double().unsqueeze(1).expand(-1, dim, -1).gather(2, order).cumsum(-1)
    cumulated = cumulated / cumulated[..., -1:]
    level = torch.as_tensor(levels, dtype=torch.float64, device=y.device)
    # Half of one part in 1e9: a level that equals a sum of weights up to rounding is reached.
    index = torch.searchsorted(
        cumulated.contiguous(), (level - 5e-10).expand(n, dim, -1).contiguous()
    )
    return ordered.gather(2, index.clamp_(max=m - 1)).mT
