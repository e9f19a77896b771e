"""Scores of predicted samples and intervals of y in R^D: pure functions of NumPy arrays.

A coordinate with a period, such as an angle, is measured along the shorter way round. All
arithmetic is float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = [
    "PIT_LEVELS",
    "crps",
    "energy_score",
    "interval_hits",
    "pit",
    "quantile_calibration_error",
    "wrap",
]

PIT_LEVELS = np.linspace(0.05, 0.95, 19)
"""Probabilities of the quantiles for which calibration is computed."""


def wrap(difference: np.ndarray, periods: Sequence[float | None] | None) -> np.ndarray:
    """Differences (..., D) of periodic coordinates, moved into [-period / 2, period / 2).

    Args:
        difference: (..., D) in raw units.
        periods: period of each coordinate, None for one that does not repeat; None for no period at
            all.

    Raises:
        ValueError: the number of periods is not D.
    """
    difference = np.asarray(difference, float)
    if periods is None or not any(periods):
        return difference
    if len(periods) != difference.shape[-1]:
        raise ValueError(f"{len(periods)} periods for {difference.shape[-1]} coordinates")
    wrapped = difference.copy()
    for d, period in enumerate(periods):
        if period:
            wrapped[..., d] = (difference[..., d] + period / 2) % period - period / 2
    return wrapped


def crps(samples: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score  E|X - y| - ½ E|X - X'|  of the empirical distribution.

    X and X' are drawn from the S samples with replacement. The sum over pairs of sorted samples has
    the closed form Σ_i (2 i - S + 1) x_(i) for i = 0 ... S - 1, so the cost is that of sorting.

    Source: Gneiting and Raftery, JASA 2007, eq. 21.

    Args:
        samples: (n, S) predicted samples.
        target: (n,) observations.

    Returns:
        (n,) in the unit of y, not negative; |x - y| for one sample.
    """
    samples, target = np.asarray(samples, float), np.asarray(target, float)
    count = samples.shape[1]
    ordered = np.sort(samples, axis=1)
    spread = ordered @ (2 * np.arange(count) - count + 1) / count**2
    return np.abs(samples - target[:, None]).mean(1) - spread


def energy_score(
    samples: np.ndarray,
    target: np.ndarray,
    periods: Sequence[float | None] | None = None,
    most: int = 256,
) -> np.ndarray:
    """Energy score  E‖X - y‖ - ½ E‖X - X'‖  of the empirical distribution of the samples.

    For D = 1 without a period it is the CRPS. The distance of two points is the Euclidean one of
    their wrapped difference.

    Source: Gneiting and Raftery, JASA 2007, eq. 22.

    Args:
        samples: (n, S, D) predicted samples, all coordinates in the same unit.
        target: (n, D) observations.
        periods: as in :func:`wrap`.
        most: of more samples than this, evenly spaced ones are used, because the cost is
            quadratic.

    Returns:
        (n,) in the unit of y; smaller is better.
    """
    samples, target = np.asarray(samples, float), np.asarray(target, float)
    count = samples.shape[1]
    if count > most:
        samples = samples[:, np.linspace(0, count - 1, most).round().astype(int)]
    miss = np.linalg.norm(wrap(samples - target[:, None], periods), axis=-1).mean(1)
    spread = np.empty(len(samples))
    for i, points in enumerate(samples):  # one image at a time: most² · D numbers
        difference = wrap(points[:, None] - points[None], periods)
        spread[i] = np.sqrt((difference**2).sum(-1)).mean()
    return miss - 0.5 * spread


def interval_hits(
    interval: np.ndarray, target: np.ndarray, periods: Sequence[float | None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each interval contains the observation, and its width.

    An interval of a periodic coordinate runs upwards from its lower to its upper end; with upper <
    lower it passes the border of the period.

    Args:
        interval: (n, L, 2, D) lower and upper ends at L levels.
        target: (n, D) observations.
        periods: as in :func:`wrap`.

    Returns:
        (n, L, D) bool, and the widths (n, L, D) in raw units.
    """
    lower, upper = np.moveaxis(np.asarray(interval, float), 2, 0)
    width, above = upper - lower, np.asarray(target, float)[:, None] - lower
    for d, period in enumerate(periods or ()):
        if period:
            turned = width[..., d] < 0
            width[..., d] = np.where(turned, width[..., d] + period, width[..., d]).clip(max=period)
            above[..., d] %= period
    return (above >= 0) & (above <= width), width


def pit(
    samples: np.ndarray,
    target: np.ndarray,
    periods: Sequence[float | None] | None = None,
    centre: np.ndarray | None = None,
) -> np.ndarray:
    """Probability integral transform  P(X < y) + ½ P(X = y)  of each coordinate.

    It is uniform on [0, 1] for a calibrated prediction. The circle of a periodic coordinate is cut
    opposite to ``centre``.

    Args:
        samples: (n, S, D) predicted samples.
        target: (n, D) observations.
        periods: as in :func:`wrap`.
        centre: (n, D) any point that does not depend on the observation, such as the point
            prediction; needed for periodic coordinates.

    Returns:
        (n, D) in [0, 1].

    Raises:
        ValueError: a coordinate is periodic and ``centre`` is missing.
    """
    samples, target = np.asarray(samples, float), np.asarray(target, float)
    if periods is not None and any(periods):
        if centre is None:
            raise ValueError(f"periods={tuple(periods)}: pass the centre of each prediction")
        samples = wrap(samples - np.asarray(centre, float)[:, None], periods)
        target = wrap(target - centre, periods)
    below, equal = samples < target[:, None], samples == target[:, None]
    return below.mean(1) + 0.5 * equal.mean(1)


def quantile_calibration_error(
    values: np.ndarray, levels: Sequence[float] | np.ndarray = PIT_LEVELS
) -> np.ndarray:
    """Mean over the levels p of |share of PIT values <= p - p|, for each coordinate.

    Source: Kuleshov et al., "Accurate Uncertainties for Deep Learning Using Calibrated
    Regression", ICML 2018, with the absolute difference.

    Args:
        values: (n, D) results of :func:`pit`.
        levels: (J,) probabilities p.

    Returns:
        (D,) in [0, 1]; NaN for n = 0.
    """
    values, levels = np.asarray(values, float), np.asarray(levels, float)
    if not len(values):
        return np.full(values.shape[1], np.nan)
    observed = (values[:, None] <= levels[:, None]).mean(0)
    return np.abs(observed - levels[:, None]).mean(0)
