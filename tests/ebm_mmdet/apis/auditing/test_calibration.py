"""Probabilities from log-ratios of annotations, some of which are bad."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_mmdet.apis.auditing.calibration import evidence_against, fit_mixture, side_factor


def some(rng, good, bad):
    """Log-ratios of Gaussian errors under a Gaussian f: half a weighted sum of four squares."""
    weights = np.array([0.5, 1.0, 1.5, 2.0])

    def draw(count, width):
        return 0.5 * (weights * (width * rng.standard_normal((count, 4))) ** 2).sum(1)

    return np.concatenate([draw(good, 1.0), draw(bad, 6.0)]), np.arange(good + bad) >= good


@pytest.mark.parametrize("share", [0.03, 0.1, 0.3])
def test_the_share_of_bad_ones_is_found(share):
    count = 2000
    r, bad = some(np.random.default_rng(0), round((1 - share) * count), round(share * count))
    mixture = fit_mixture(r)
    assert mixture.share == pytest.approx(share, rel=0.25)
    p = mixture.probability(r)
    assert p.mean() == pytest.approx(share, rel=0.25)
    assert p[bad].mean() > 0.85 > 0.1 > p[~bad].mean()
    # Among those with p near a value, about this share is bad.
    for low, high in ((0.0, 0.1), (0.9, 1.01)):
        inside = (p >= low) & (p < high)
        assert bad[inside].mean() == pytest.approx(p[inside].mean(), abs=0.05)


def test_without_bad_ones_few_are_flagged():
    r, _ = some(np.random.default_rng(1), 3000, 0)
    p = fit_mixture(r).probability(r)
    assert (p >= 0.5).mean() < 0.02


def test_a_larger_log_ratio_is_never_less_probably_bad():
    r, _ = some(np.random.default_rng(2), 500, 60)
    p = fit_mixture(r).probability(np.linspace(0, 500, 5000))
    assert (np.diff(p) >= -1e-9).all()
    assert p[0] < 0.05
    assert p[-1] > 0.99


def test_the_unit_of_the_log_ratio_does_not_matter():
    r, _ = some(np.random.default_rng(3), 800, 100)
    np.testing.assert_allclose(
        fit_mixture(r).probability(r), fit_mixture(40 * r).probability(40 * r), atol=0.02
    )


def test_too_few_decide_nothing_and_infinite_is_bad():
    few = fit_mixture(np.array([0.1, 50.0]))
    assert set(few.probability(np.array([0.1, 50.0]))) == {0.05}
    r, _ = some(np.random.default_rng(4), 200, 20)
    mixture = fit_mixture(np.append(r, np.inf))
    assert mixture.count == 220
    assert mixture.probability(np.array([np.inf]))[0] == 1
    assert len(mixture.probability(np.zeros(0))) == 0


def test_equal_log_ratios_have_a_probability():
    p = fit_mixture(np.ones(100)).probability(np.array([0.0, 1.0, 1e6]))
    assert np.isfinite(p).all()


def test_the_side_factor_is_not_moved_by_a_third_of_bad_sides():
    rng = np.random.default_rng(5)
    spread = rng.uniform(0.5, 2.0, (3000, 4))
    shift = 1.7 * spread * rng.standard_normal((3000, 4))
    clean = side_factor(shift, spread)
    shift[:900] *= 50
    assert clean == pytest.approx(1.7, rel=0.03)
    assert side_factor(shift, spread) == pytest.approx(1.7, rel=0.6)
    assert side_factor(np.zeros((0, 4)), np.zeros((0, 4))) == 1


def test_evidence_is_the_log_ratio_and_the_surprise_above_the_usual_least():
    ratio = np.array([0.0, 1.0, 2.0, np.inf])
    assert evidence_against(ratio, None, np.ones(4, bool)) is not None
    np.testing.assert_array_equal(evidence_against(ratio, None, np.ones(4, bool)), ratio)
    surprise = np.array([-7.0, -5.0, np.inf, -6.0])
    usual = np.array([True, True, True, False])
    least = -7 + 0.01 * 2  # first percentile of -7 and -5
    expected = [0.0, 1 - 5 - least, np.inf, np.inf]
    np.testing.assert_allclose(evidence_against(ratio, surprise, usual), expected)
    # Where nothing is known of the surprise, the log-ratio decides.
    nowhere = evidence_against(ratio, np.full(4, np.inf), usual)
    np.testing.assert_array_equal(nowhere, ratio)


def test_two_witnesses_that_err_at_different_boxes_are_better_than_one():
    """Good and bad boxes whose log-ratio and surprise overlap, each by itself."""
    rng = np.random.default_rng(0)
    bad = np.arange(2000) < 400
    f = rng.gamma(2, 1, 2000) * np.where(bad, 4, 1)
    s = rng.gamma(2, 1, 2000) * np.where(bad, 4, 1) - 12
    both = evidence_against(f, s, np.ones(2000, bool))
    alone, together = fit_mixture(f), fit_mixture(both)

    def error(mixture, values):
        return np.abs((mixture.probability(values) > 0.5) != bad).mean()

    assert error(together, both) < 0.8 * error(alone, f)
    assert abs(together.share - 0.2) < 0.05
