"""Probabilities from evidence, calibrated on the annotations, of which an unknown part is bad."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, expit, gammaln

__all__ = ["Mixture", "evidence_against", "fit_mixture", "side_factor"]

FEWEST = 20
"""Boxes below which no mixture is fitted."""
MOST_BAD = 0.5
"""Largest share of bad annotations that is believed: otherwise they are the rule."""
LEAST_RATIO = 3.0
"""The mean evidence against bad annotations is at least so many times that against good ones."""
PRIOR = 20.0
"""Weight, in annotations, of the expectation that few are bad, so that twenty boxes decide
nothing."""
LOWEST = 0.01
"""Quantile of the surprise that counts as none."""


@dataclass(frozen=True)
class Mixture:
    """Evidence r against good annotations and bad ones, each with a gamma distribution.

        p(r) = (1 - w) Gamma(r; a₀, θ₀) + w Gamma(r; a₁, θ₁)

    If an annotator's errors are Gaussian, and f is a Gaussian around the object's true box, then
    the log-ratio is half a weighted sum of squares of four normal numbers, which a gamma
    distribution fits whatever the spreads are; so is the surprise, but for a constant. So the first
    part is what is usual in these annotations.
    """

    share: float
    """w, the share of bad annotations."""
    good: tuple[float, float]
    """Shape a₀ and scale θ₀."""
    bad: tuple[float, float]
    count: int
    """Number of annotations that it is fitted to."""
    enough: bool
    """False if there were too few: all probabilities are the prior's."""

    def probability(self, evidence: np.ndarray) -> np.ndarray:
        """(n,) that an annotation is of the second part; it never falls as r rises."""
        r = np.asarray(evidence, float)
        if not self.enough:
            return np.full(r.shape, self.share)
        # Below the typical good one, the odds of two gammas may rise again: nothing is better than
        # little evidence.
        lowest = self.good[0] * self.good[1]
        x = np.clip(r, lowest, None)
        odds = np.log(self.share) - np.log1p(-self.share)
        with np.errstate(invalid="ignore"):
            logit = odds + _log_gamma(x, *self.bad) - _log_gamma(x, *self.good)
        return np.where(np.isposinf(r), 1.0, expit(logit))

    def to_dict(self) -> dict:
        return asdict(self)


def evidence_against(
    log_ratio: np.ndarray, surprise: np.ndarray | None, usual: np.ndarray
) -> np.ndarray:
    """The evidence r against n annotations, in nats, not negative.

        r = f(m) - f(y) + max(s - s₁, 0),    s = -log N(y; μ(y), σ(y)²)

    The log-ratio of f says how much likelier another box is; the surprise s of a Gaussian says how
    unlikely this one is, its own doubt included: σ is large at a box that is not about one
    object. They are about equally good and err at different boxes, so that their sum is better
    than either. s₁ is the first percentile of s, since a density has no lowest value.

    Args:
        log_ratio: (n,) not negative, +inf allowed.
        surprise: (n,) in nats, +inf allowed; None leaves it out.
        usual: (n,) bool, the annotations by which s₁ is found.
    """
    r = np.asarray(log_ratio, float)
    if surprise is None:
        return r
    s = np.asarray(surprise, float)
    known = s[usual & np.isfinite(s)]
    return r + np.maximum(s - np.quantile(known, LOWEST), 0) if known.size else r


def fit_mixture(evidence: np.ndarray, iterations: int = 300) -> Mixture:
    """Fit by expectation maximisation, with a bad part that lies above the good one.

    Args:
        evidence: (n,) not negative; values that are not finite are bad for certain and left out.
        iterations: at most.
    """
    r = np.asarray(evidence, float)
    r = r[np.isfinite(r)]
    r = np.maximum(r, 1e-3)
    if len(r) < FEWEST:
        return Mixture(0.05, (1.0, 1.0), (1.0, 10.0), len(r), False)
    # Half of them are good: their median and quartile start the good part.
    middle = np.median(r)
    good = (1.5, middle / 1.2)
    bad, share = (1.5, 10 * middle / 1.2), 0.1
    before = -np.inf
    for _ in range(iterations):
        logs = np.stack(
            [np.log1p(-share) + _log_gamma(r, *good), np.log(share) + _log_gamma(r, *bad)]
        )
        total = np.logaddexp(*logs)
        weight = np.exp(logs[1] - total)
        share = min((weight.sum() + 0.05 * PRIOR) / (len(r) + PRIOR), MOST_BAD)
        good = _fit_gamma(r, 1 - weight) or good
        bad = _fit_gamma(r, weight) or bad
        least = LEAST_RATIO * good[0] * good[1]
        shape = max(bad[0], good[0] * 0.3)
        bad = (shape, max(bad[0] * bad[1], least) / shape)
        now = total.mean()
        if abs(now - before) < 1e-7:
            break
        before = now
    if bad[1] < good[1]:  # the odds would fall again for large r
        bad = (max(bad[0], good[0]), good[1])
    return Mixture(float(share), _floats(good), _floats(bad), len(r), True)


def side_factor(shift: np.ndarray, spread: np.ndarray) -> float:
    """By how much spreads are to be widened to be those of the annotations, robustly.

    The median of the absolute shift / spread becomes that of a standard normal number, 0.674. As
    long as less than half of the sides are bad, these do not decide it.
    """
    z = np.abs(shift) / np.maximum(spread, 1e-9)
    z = z[np.isfinite(z)]
    return max(float(np.median(z)) / 0.6745, 1e-3) if z.size else 1.0


def _log_gamma(x: np.ndarray, shape: float, scale: float) -> np.ndarray:
    return (shape - 1) * np.log(x) - x / scale - gammaln(shape) - shape * np.log(scale)


def _fit_gamma(x: np.ndarray, weight: np.ndarray) -> tuple[float, float] | None:
    """Maximum likelihood with weights: log a - ψ(a) = log mean(x) - mean(log x)."""
    total = weight.sum()
    if total < 1e-3:
        return None
    mean = (weight * x).sum() / total
    gap = np.log(mean) - (weight * np.log(x)).sum() / total
    if gap < 1e-6:
        return None
    shape = brentq(lambda a: np.log(a) - digamma(a) - gap, 1e-3, 1e7)
    shape = min(shape, 50.0)
    return shape, mean / shape


def _floats(pair: tuple[float, float]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])
