"""The true density of a generated label, given what its image shows.

A generated image is drawn from a latent state, and its label is drawn from the state *after* the
image, so that ``p(y | x)`` is a formula: a mixture of normal distributions
(:class:`MixtureTruth`) or a distribution over integers (:class:`IntegerTruth`). The mean of
``-log p(y | x)`` over labels is the smallest NLL that any model can reach.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["IntegerTruth", "MixtureTruth", "Truth"]


def _log_sum_exp(values: np.ndarray, axis: int) -> np.ndarray:
    peak = values.max(axis=axis, keepdims=True)
    peak = np.where(np.isfinite(peak), peak, 0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(values - peak).sum(axis=axis)) + peak.squeeze(axis)


@dataclass(frozen=True)
class MixtureTruth:
    """``p(y) = sum_k weights[k] * prod_d N(y_d; means[k, d], stds[k, d]²)``, raw units.

    Args:
        weights: ``(K,)``, positive, with sum 1.
        means: ``(K, D)``.
        stds: ``(K, D)``, positive.
    """

    weights: np.ndarray
    means: np.ndarray
    stds: np.ndarray

    @classmethod
    def of(cls, weights, means, stds) -> MixtureTruth:
        """Build one from lists; `stds` may be one number or ``(D,)``."""
        means = np.asarray(means, np.float64)
        stds = np.broadcast_to(np.asarray(stds, np.float64), means.shape)
        return cls(np.asarray(weights, np.float64), means, stds)

    def log_prob(self, y: np.ndarray) -> np.ndarray:
        """Log-density in nats.

        Args:
            y: ``(..., D)`` in raw units.

        Returns:
            ``(...)`` float64.
        """
        y = np.asarray(y, np.float64)[..., None, :]
        log_normal = (
            -0.5 * ((y - self.means) / self.stds) ** 2
            - np.log(self.stds)
            - 0.5 * math.log(2 * math.pi)
        )
        return _log_sum_exp(log_normal.sum(-1) + np.log(self.weights), axis=-1)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Draw one label ``(D,)`` float64."""
        k = min(
            int(np.searchsorted(np.cumsum(self.weights), rng.random(), side="right")),
            len(self.weights) - 1,
        )
        return self.means[k] + self.stds[k] * rng.standard_normal(self.means.shape[1])


@dataclass(frozen=True)
class IntegerTruth:
    """A distribution over the integers ``first, first + 1, ...``, and the density around them.

    As a density, each probability is spread evenly over ``(n - ½, n + ½]``. This is the density of
    ``n + U(-½, ½)``, a dequantised label, so its NLL is the entropy of the distribution.

    Args:
        first: the smallest integer.
        probs: ``(K,)``, probabilities of ``first .. first + K - 1``.
    """

    first: int
    probs: np.ndarray

    def log_prob(self, y: np.ndarray) -> np.ndarray:
        """Log-density in nats of ``y (..., 1)``; ``-inf`` outside the integers covered."""
        y = np.asarray(y, np.float64)[..., 0]
        k = np.ceil(y - 0.5).astype(np.int64) - self.first
        inside = (k >= 0) & (k < len(self.probs))
        with np.errstate(divide="ignore"):
            return np.where(inside, np.log(self.probs[np.where(inside, k, 0)]), -np.inf)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Draw one label ``(1,)`` float64, an integer."""
        k = min(
            int(np.searchsorted(np.cumsum(self.probs), rng.random(), side="right")),
            len(self.probs) - 1,
        )
        return np.array([float(self.first + k)])

    def entropy(self) -> float:
        """Entropy in nats, the NLL of the dequantised label under this density."""
        p = self.probs[self.probs > 0]
        return float(-(p * np.log(p)).sum())


Truth = MixtureTruth | IntegerTruth
