"""Scores of samples and intervals against closed forms, `scoringrules` and plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
import scoringrules
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import norm

from ebm_mmdet.regression.scores import (
    PIT_LEVELS,
    crps,
    energy_score,
    interval_hits,
    pit,
    quantile_calibration_error,
    wrap,
)

RNG = np.random.default_rng


@given(st.floats(-2000, 2000), st.sampled_from([2 * np.pi, 180.0, 360.0]))
def test_wrap_is_the_shorter_way_round(difference, period):
    (found,) = wrap(np.array([difference]), (period,))
    assert -period / 2 <= found <= period / 2
    turns = (difference - found) / period
    assert turns == pytest.approx(round(turns), abs=1e-9)


def test_wrap_leaves_what_has_no_period():
    difference = np.array([[400.0, 400.0]])
    assert wrap(difference, None) is difference
    np.testing.assert_array_equal(wrap(difference, (None, 360.0)), [[400.0, 40.0]])
    np.testing.assert_array_equal(difference, [[400.0, 400.0]])
    with pytest.raises(ValueError, match="3 periods for 2"):
        wrap(difference, (None, None, 1.0))


@pytest.mark.parametrize("count", [1, 2, 17])
def test_crps_is_that_of_scoringrules(count):
    samples, target = RNG(0).normal(size=(5, count)), RNG(1).normal(size=5)
    expected = scoringrules.crps_ensemble(target, samples, estimator="nrg")
    np.testing.assert_allclose(crps(samples, target), expected, atol=1e-12)


def test_crps_of_many_gaussian_samples_is_the_closed_form():
    samples = norm.ppf((np.arange(4000) + 0.5) / 4000)[None].repeat(3, 0)
    target = np.array([-1.0, 0.0, 2.5])
    expected = scoringrules.crps_normal(target, 0.0, 1.0)
    np.testing.assert_allclose(crps(samples, target), expected, atol=1e-3)


def test_energy_score_is_that_of_scoringrules():
    samples, target = RNG(0).normal(size=(4, 30, 3)), RNG(1).normal(size=(4, 3))
    expected = scoringrules.es_ensemble(target, samples, estimator="nrg")
    np.testing.assert_allclose(energy_score(samples, target), expected, rtol=1e-10)


def test_energy_score_in_one_dimension_is_the_crps():
    samples, target = RNG(0).normal(size=(4, 31)), RNG(1).normal(size=4)
    found = energy_score(samples[..., None], target[:, None])
    np.testing.assert_allclose(found, crps(samples, target), rtol=1e-10)


def test_energy_score_does_not_change_when_a_circle_turns():
    samples, target = 50 * RNG(0).normal(size=(4, 30, 1)), 50 * RNG(1).normal(size=(4, 1))
    turned = (samples + 170 + 180) % 360 - 180, (target + 170 + 180) % 360 - 180
    found = energy_score(*turned, periods=(360.0,))
    np.testing.assert_allclose(found, energy_score(samples, target, (360.0,)), rtol=1e-10)
    assert not np.allclose(found, energy_score(*turned))


def test_many_samples_are_thinned_evenly():
    samples = np.sort(RNG(0).normal(size=(3, 2000, 1)), axis=1)  # sorted: the first are not typical
    target = np.zeros((3, 1))
    found, full = energy_score(samples, target, most=400), energy_score(samples, target, most=2000)
    np.testing.assert_allclose(found, full, atol=5e-3)


@pytest.mark.parametrize(
    ("interval", "target", "inside", "width"),
    [
        ((-10, 10), 10, True, 20),
        ((-10, 10), 11, False, 20),
        ((170, -170), 180, True, 20),
        ((170, -170), -175, True, 20),
        ((170, -170), 0, False, 20),
        ((170, 190), -175, True, 20),  # not wrapped itself
        ((-200, 200), 100, True, 360),
    ],
)
def test_intervals_of_a_circle(interval, target, inside, width):
    ends = np.array(interval, float).reshape(1, 1, 2, 1)
    found, measured = interval_hits(ends, np.array([[target]]), (360.0,))
    assert (bool(found), float(measured)) == (inside, width)


def test_pit_of_a_calibrated_prediction_is_uniform():
    rng = RNG(0)
    mean, std = 20 * rng.normal(size=(3000, 2)), rng.uniform(0.5, 3, size=(3000, 2))
    target = mean + std * rng.normal(size=mean.shape)
    quantiles = ndtri((np.arange(200) + 0.5) / 200)
    samples = mean[:, None] + std[:, None] * quantiles[:, None]
    assert (quantile_calibration_error(pit(samples, target)) < 0.02).all()
    narrow = mean[:, None] + 0.5 * std[:, None] * quantiles[:, None]
    assert (quantile_calibration_error(pit(narrow, target)) > 0.08).all()


def test_pit_on_a_circle_is_cut_opposite_to_the_centre():
    samples = np.array([175.0, 178.0, -178.0, -175.0]).reshape(1, 4, 1)
    target, centre = np.array([[-179.0]]), np.array([[180.0]])
    assert pit(samples, target, (360.0,), centre) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="centre"):
        pit(samples, target, (360.0,))


def test_pit_counts_equal_samples_by_half():
    assert pit(np.array([[[1.0], [2.0], [2.0], [3.0]]]), np.array([[2.0]])) == pytest.approx(0.5)


def test_no_observation_has_no_calibration_error():
    assert np.isnan(quantile_calibration_error(np.zeros((0, 2)), PIT_LEVELS)).all()
