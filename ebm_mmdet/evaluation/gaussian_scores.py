"""Proper scores and calibration of Gaussian predictions: pure functions of NumPy arrays.

A prediction is N(μ, C), and it is scored by the residual r = y - μ of the observation y. Only
:func:`side_covariance` concerns boxes. All arithmetic is float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

__all__ = [
    "LEVELS",
    "central_coverage",
    "expected_calibration_error",
    "floor_covariance",
    "gaussian_energy_score",
    "gaussian_nll",
    "side_covariance",
]

LEVELS = np.linspace(0.05, 0.95, 19)
"""Probabilities of the central intervals for which calibration is computed."""


def gaussian_nll(residual: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Negative log-likelihood, -log N(r; 0, C) = ½ rᵀC⁻¹r + ½ log det C + D/2 log 2π.

    Args:
        residual: (n, D) r, observation minus mean.
        covariance: (n, D, D) C, symmetric and positive definite.

    Returns:
        (n,) in nats. Negative where the density exceeds 1, which is not an error.

    Raises:
        ValueError: shapes do not agree, or a covariance is not finite and positive definite.
    """
    variance, squared = _along_axes(residual, covariance)
    if not (variance > 0).all():
        raise ValueError(
            f"{int((variance <= 0).any(1).sum())} of {len(variance)} covariances are not positive "
            "definite and have no density; apply floor_covariance first."
        )
    return 0.5 * (squared / variance + np.log(2 * math.pi * variance)).sum(1)


def gaussian_energy_score(residual: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Energy score  E‖X - r‖ - ½ E‖X - X'‖  with X, X' ~ N(0, C) independent.

    For D = 1 it is the continuous ranked probability score; for C = 0 it is ‖r‖. It is not sampled
    but integrated, by

        E √Q = 1/(2√π) ∫ (1 - E e^{-tQ}) t^{-3/2} dt,   0 < t < ∞,

    Since the expectation E e^{-tQ} is known in closed form for the squared norm Q of a Gaussian
    vector, both terms are one-dimensional integrals. The trapezoidal rule in log t gives about 12
    digits.

    Source: Gneiting and Raftery, "Strictly Proper Scoring Rules, Prediction, and Estimation",
    JASA 2007, eq. 22.

    Args:
        residual: (n, D) r, observation minus mean.
        covariance: (n, D, D) C, symmetric and positive semi-definite.

    Returns:
        (n,) in the unit of the residual, not negative; smaller is better.

    Raises:
        ValueError: shapes do not agree, or a covariance is not finite.
    """
    variance, squared = _along_axes(residual, covariance)
    variance = variance.clip(min=0)
    return _mean_norm(variance, squared) - 0.5 * _mean_norm(2 * variance, np.zeros_like(squared))


def _mean_norm(variance: np.ndarray, squared_mean: np.ndarray) -> np.ndarray:
    """E‖X‖ (n,) of X with independent coordinates of given variance and squared mean (n, D)."""
    scale = (variance + squared_mean).sum(1)  # E‖X‖², which makes the integrand free of units
    scale = np.where(scale > 0, scale, 1.0)[:, None]
    variance, squared_mean = variance / scale, squared_mean / scale
    step, total = 0.25, np.zeros(len(scale))
    # Both tails fall like exp(-|s| / 2): beyond 60 they are below 1e-12.
    for s in np.arange(-60.0, 60.0 + step, step):
        t = math.exp(s)
        growth = 2 * t * variance
        log_mean = -(0.5 * np.log1p(growth) + t * squared_mean / (1 + growth)).sum(1)
        total -= np.expm1(log_mean) * math.exp(-0.5 * s)
    return np.sqrt(scale[:, 0]) * step * total / (2 * math.sqrt(math.pi))


def central_coverage(z: np.ndarray, levels: Sequence[float] | np.ndarray = LEVELS) -> np.ndarray:
    """Share of observations inside the central interval of each probability p.

        coverage(p) = mean( |z| <= Φ⁻¹((1 + p) / 2) )

    Equal to p for a calibrated prediction; above p the uncertainty is too large, below too small.

    Args:
        z: (n,) standardised residuals, observation minus mean over standard deviation.
        levels: (J,) probabilities p in [0, 1].

    Returns:
        (J,) in [0, 1]; NaN for n = 0.
    """
    levels = np.asarray(levels, float)
    if not len(z):
        return np.full(len(levels), np.nan)
    return (np.abs(np.asarray(z, float))[:, None] <= ndtri(0.5 + levels / 2)).mean(0)


def expected_calibration_error(
    z: np.ndarray, levels: Sequence[float] | np.ndarray = LEVELS
) -> float:
    """Mean over the levels of |coverage(p) - p|; arguments as in :func:`central_coverage`.

    Zero is perfect; with n independent residuals a perfect prediction still has about 0.3 / √n.

    Source: Kuleshov et al., "Accurate Uncertainties for Deep Learning Using Calibrated
    Regression", ICML 2018, sec. 3.5, with the absolute difference and central intervals.
    """
    return float(np.abs(central_coverage(z, levels) - np.asarray(levels, float)).mean())


def floor_covariance(covariance: np.ndarray, min_std: float) -> tuple[np.ndarray, np.ndarray]:
    """Raise the standard deviation along every axis of the ellipsoid to at least ``min_std``.

    Args:
        covariance: (n, D, D) symmetric and finite.
        min_std: smallest standard deviation, positive, in the unit of the coordinates.

    Returns:
        The covariances (n, D, D), unchanged to the bit where nothing had to be raised, and (n,)
        bool, True where something was raised.
    """
    variance, axes = np.linalg.eigh(covariance)
    raised = (variance < min_std**2).any(1)
    floored = (axes * variance.clip(min=min_std**2)[:, None]) @ axes.swapaxes(1, 2)
    return np.where(raised[:, None, None], floored, covariance), raised


def side_covariance(boxes: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Covariance of the sides (x1, y1, x2, y2) in pixels, from that of encoded coordinates.

    C_sides = J C Jᵀ, with J the derivative of :func:`~ebm_mmdet.models.decode_boxes` at u = 0:

        ∂x1/∂u = (w, 0, -w/2, 0),   ∂x2/∂u = (w, 0, w/2, 0),   and y with h likewise.

    It is exact for the centre, and of first order for the log-sizes, which is accurate while their
    standard deviations are below 0.3.

    Args:
        boxes: (n, 4) ``(x1, y1, x2, y2)``, the boxes that the coordinates are relative to.
        covariance: (n, 4, 4) of ``(cx/w, cy/h, log w, log h)``.

    Returns:
        (n, 4, 4) in square units of ``boxes``.
    """
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    size = (boxes[:, 2:] - boxes[:, :2]).clip(min=0)
    jacobian = np.zeros((len(boxes), 4, 4))
    for axis in (0, 1):
        for side, sign in ((axis, -0.5), (axis + 2, 0.5)):
            jacobian[:, side, axis] = size[:, axis]
            jacobian[:, side, axis + 2] = sign * size[:, axis]
    return jacobian @ covariance @ jacobian.swapaxes(1, 2)


def _along_axes(residual: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances and squared residuals along the axes of each ellipsoid, both (n, D)."""
    residual, covariance = np.asarray(residual, float), np.asarray(covariance, float)
    if residual.ndim != 2 or covariance.shape != (*residual.shape, residual.shape[1]):
        raise ValueError(
            f"residual {residual.shape} and covariance {covariance.shape} do not agree; expected "
            "(n, D) and (n, D, D)."
        )
    if not np.isfinite(covariance).all():
        raise ValueError("a covariance is not finite; leave those predictions out.")
    variance, axes = np.linalg.eigh(covariance)
    return variance, np.einsum("nde,nd->ne", axes, residual) ** 2
