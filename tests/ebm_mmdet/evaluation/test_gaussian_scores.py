"""Scores and calibration of Gaussian predictions: closed forms and independent libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gamma, hyp1f1, ndtr, ndtri
from scipy.stats import multivariate_normal

pytest.importorskip("mmdet", reason="importing ebm_mmdet registers with mmdet")

from ebm_mmdet.evaluation import (
    central_coverage,
    expected_calibration_error,
    floor_covariance,
    gaussian_energy_score,
    gaussian_nll,
    side_covariance,
)
from ebm_mmdet.models import decode_boxes

EXACT = dict(rtol=1e-10, atol=1e-10)


def covariances(n: int, dim: int, seed: int = 0) -> np.ndarray:
    root = np.random.default_rng(seed).normal(size=(n, dim, dim))
    return root @ root.swapaxes(1, 2) + 0.1 * np.eye(dim)


def residuals(n: int, dim: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, dim)) * 2


@pytest.mark.parametrize("dim", [1, 4])
def test_likelihood_is_that_of_scipy(dim):
    r, c = residuals(50, dim), covariances(50, dim)
    expected = [-multivariate_normal(cov=ci).logpdf(ri) for ri, ci in zip(r, c)]
    np.testing.assert_allclose(gaussian_nll(r, c), expected, **EXACT)
    at_mean = gaussian_nll(np.zeros((1, dim)), 0.25 * np.eye(dim)[None])
    np.testing.assert_allclose(at_mean, dim * math.log(0.5 * math.sqrt(2 * math.pi)), **EXACT)


def test_likelihood_is_that_of_scoringrules():
    scoringrules = pytest.importorskip("scoringrules")
    r, c = residuals(50, 1), covariances(50, 1)
    expected = scoringrules.logs_normal(r[:, 0], 0.0, np.sqrt(c[:, 0, 0]))
    np.testing.assert_allclose(gaussian_nll(r, c), expected, **EXACT)


def test_energy_score_in_one_dimension_is_the_crps():
    scoringrules = pytest.importorskip("scoringrules")
    r, c = residuals(200, 1) * 5, covariances(200, 1)
    expected = scoringrules.crps_normal(r[:, 0], 0.0, np.sqrt(c[:, 0, 0]))
    np.testing.assert_allclose(gaussian_energy_score(r, c), expected, rtol=1e-9, atol=1e-9)


def isotropic_energy_score(distance: float, std: float, dim: int) -> float:
    """Mean of the (noncentral) chi distribution in both terms."""
    ratio = math.sqrt(2) * gamma((dim + 1) / 2) / gamma(dim / 2)
    first = std * ratio * hyp1f1(-0.5, dim / 2, -((distance / std) ** 2) / 2)
    return first - 0.5 * math.sqrt(2) * std * ratio


@pytest.mark.parametrize("dim", [1, 2, 4, 7])
@pytest.mark.parametrize("distance", [0.0, 0.3, 2.0, 30.0])
@pytest.mark.parametrize("std", [1e-3, 1.0])
def test_energy_score_of_an_isotropic_gaussian(dim, distance, std):
    r = np.zeros((1, dim))
    r[0, -1] = distance * std
    (score,) = gaussian_energy_score(r, std**2 * np.eye(dim)[None])
    assert score == pytest.approx(isotropic_energy_score(distance * std, std, dim), rel=1e-9)


def test_energy_score_of_any_gaussian_is_that_of_samples():
    scoringrules = pytest.importorskip("scoringrules")
    rng = np.random.default_rng(0)
    r, c = residuals(4, 4), covariances(4, 4)
    draws = np.stack([rng.multivariate_normal(np.zeros(4), ci, (40, 250)) for ci in c])
    # The unbiased estimator, in 40 independent batches, which give its error.
    batches = scoringrules.es_ensemble(
        np.repeat(r[:, None], 40, 1), draws, estimator="fair", backend="numpy"
    )
    error = batches.std(1, ddof=1) / math.sqrt(40)
    assert (error < 0.02).all()
    assert (np.abs(gaussian_energy_score(r, c) - batches.mean(1)) < 5 * error).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.integers(1, 5))
def test_energy_score_scales_with_the_unit_and_ignores_rotation(seed, unit, dim):
    r, c = residuals(3, dim, seed), covariances(3, dim, seed)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))
    expected = unit * gaussian_energy_score(r, c)
    turned = gaussian_energy_score(unit * r @ turn.T, unit**2 * (turn @ c @ turn.T))
    np.testing.assert_allclose(turned, expected, rtol=1e-8)
    assert (expected >= 0).all()


def test_energy_score_without_extent_is_the_distance():
    r = residuals(5, 4)
    r[0] = 0
    expected = np.linalg.norm(r, axis=1)
    np.testing.assert_allclose(gaussian_energy_score(r, np.zeros((5, 4, 4))), expected, atol=1e-11)


@pytest.mark.parametrize("score", [gaussian_nll, gaussian_energy_score])
def test_scores_are_proper(score):
    truth = covariances(1, 3)[0]
    r = np.random.default_rng(2).multivariate_normal(np.zeros(3), truth, 4000)
    best = score(r, np.broadcast_to(truth, (4000, 3, 3))).mean()
    for other in (0.5 * truth, 2 * truth, np.diag(np.diag(truth)), np.eye(3) * np.trace(truth) / 3):
        assert score(r, np.broadcast_to(other, (4000, 3, 3))).mean() > best + 1e-4


@pytest.mark.parametrize("claimed", [0.5, 1.0, 2.0])
def test_calibration_error_of_a_wrong_standard_deviation(claimed):
    """Z ~ N(0, 1/claimed²), at the quantiles of it: coverage(p) = 2 Φ(claimed Φ⁻¹(½ + p/2)) - 1."""
    n = 20001
    z = ndtri((np.arange(n) + 0.5) / n) / claimed
    levels = np.linspace(0.1, 0.9, 9)
    expected = 2 * ndtr(claimed * ndtri(0.5 + levels / 2)) - 1
    np.testing.assert_allclose(central_coverage(z, levels), expected, atol=2 / n)
    error = expected_calibration_error(z, levels)
    assert error == pytest.approx(np.abs(expected - levels).mean(), abs=2 / n)
    assert (error < 2 / n) == (claimed == 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_is_that_of_uncertainty_toolbox(seed):
    toolbox = pytest.importorskip("uncertainty_toolbox")
    rng = np.random.default_rng(seed)
    std = rng.uniform(0.5, 2, 300)
    truth, mean = rng.standard_t(3, 300) * std + 0.2, np.zeros(300)
    levels = np.linspace(0, 1, 100)  # those of the library
    ours = expected_calibration_error(truth / std, levels)
    theirs = toolbox.mean_absolute_calibration_error(mean, std, truth, prop_type="interval")
    assert ours == pytest.approx(theirs, abs=1e-12)
    assert ours > 0.01


def test_covariance_of_sides_is_the_derivative_of_decoding():
    boxes = torch.tensor([[10.0, 20, 50, 40], [0, 0, 3, 300]], dtype=torch.float64)
    c = covariances(2, 4)
    ours = side_covariance(boxes.numpy(), c)
    for box, ci, found in zip(boxes, c, ours):
        j = torch.autograd.functional.jacobian(
            lambda u, box=box: decode_boxes(u, box), torch.zeros(4, dtype=torch.float64)
        ).numpy()
        np.testing.assert_allclose(found, j @ ci @ j.T, **EXACT)
    assert side_covariance(np.zeros((0, 4)), np.zeros((0, 4, 4))).shape == (0, 4, 4)


def test_floor_raises_only_what_is_too_narrow():
    c = covariances(3, 4)
    c[1] = 0
    c[2] = np.diag([4.0, 1e-8, 4.0, 4.0])
    floored, raised = floor_covariance(c, 1e-3)
    assert raised.tolist() == [False, True, True]
    assert np.array_equal(floored[0], c[0])
    np.testing.assert_allclose(floored[1], 1e-6 * np.eye(4), atol=1e-18)
    np.testing.assert_allclose(floored[2], np.diag([4.0, 1e-6, 4.0, 4.0]), atol=1e-15)


def test_messages():
    with pytest.raises(ValueError, match="do not agree"):
        gaussian_nll(np.zeros((2, 4)), np.zeros((2, 3, 3)))
    with pytest.raises(ValueError, match="1 of 2 covariances are not positive"):
        gaussian_nll(np.zeros((2, 2)), np.stack([np.eye(2), np.zeros((2, 2))]))
    with pytest.raises(ValueError, match="not finite"):
        gaussian_energy_score(np.zeros((1, 1)), np.full((1, 1, 1), np.nan))
    assert np.isnan(central_coverage(np.zeros(0), [0.5])).all()
