"""Paired bootstrap over images: the standard error of a difference between two methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = [
    "Difference",
    "Resamples",
    "bootstrap_weights",
    "difference",
    "paired_bootstrap",
    "resample",
]

Statistic = Callable[[np.ndarray], np.ndarray]


class Difference(NamedTuple):
    """The difference ``after - before``, one entry per metric."""

    value: np.ndarray
    """(K,) on the original images."""
    std: np.ndarray
    """(K,) standard deviation over the resampled image sets: the ± of the tables."""


def bootstrap_weights(num_images: int, num_resamples: int, seed: int = 0) -> np.ndarray:
    """(B, I) number of times each image was drawn; every row sums to ``num_images``."""
    if num_images < 1 or num_resamples < 2:
        raise ValueError(
            f"num_images={num_images} and num_resamples={num_resamples}: a bootstrap needs at "
            "least one image and two resamples"
        )
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_images, np.full(num_images, 1 / num_images), num_resamples)


def paired_bootstrap(before: Statistic, after: Statistic, weights: np.ndarray) -> Difference:
    """Compare two statistics of one image set, both on the same resampled images.

    Pairing removes the variation that both share (hard and easy images), which is most of it. The
    error of the mean difference ``sum_i w_i d_i / I`` is ``sqrt(sum_i (d_i - mean d)^2) / I``.

    Args:
        before: statistic, image weights (I,) -> (K,) values.
        after: likewise; to average several training seeds, let it return their mean.
        weights: (B, I) from :func:`bootstrap_weights`.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 8.
    """
    return difference(resample(before, weights), resample(after, weights))


class Resamples(NamedTuple):
    """A statistic on the original images, and on every resampled set."""

    value: np.ndarray
    """(K,)."""
    resampled: np.ndarray
    """(B, K)."""


def resample(statistic: Statistic, weights: np.ndarray) -> Resamples:
    """Evaluate a statistic once, to be compared with several others by :func:`difference`.

    The arguments are those of :func:`paired_bootstrap`.
    """
    ones = np.ones(weights.shape[1])
    return Resamples(statistic(ones), np.array([statistic(w) for w in weights]))


def difference(before: Resamples, after: Resamples) -> Difference:
    """What :func:`paired_bootstrap` returns; both have to be from the same weights."""
    change = after.resampled - before.resampled
    return Difference(after.value - before.value, np.nanstd(change, axis=0, ddof=1))
