"""The bootstrap against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_mmdet.evaluation import bootstrap_weights, paired_bootstrap
from ebm_mmdet.evaluation.bootstrap import difference, resample

NUM_IMAGES, NUM_RESAMPLES = 40, 4000


def weighted_mean(values: np.ndarray):
    return lambda weights: np.array([(weights * values).sum() / NUM_IMAGES])


def test_error_of_a_mean_difference() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(50, 20, NUM_IMAGES)  # images differ far more than the methods do
    gain = rng.normal(1, 2, NUM_IMAGES)
    weights = bootstrap_weights(NUM_IMAGES, NUM_RESAMPLES, seed=1)
    difference = paired_bootstrap(weighted_mean(before), weighted_mean(before + gain), weights)

    # Multinomial weights have variance 1 - 1/I and covariance -1/I, hence this and no other.
    error = np.sqrt(((gain - gain.mean()) ** 2).sum()) / NUM_IMAGES
    assert difference.value[0] == pytest.approx(gain.mean())
    # The standard deviation of B draws has a relative error of 1 / sqrt(2 B): 1.1 %. Four of them.
    assert difference.std[0] == pytest.approx(error, rel=4 / np.sqrt(2 * NUM_RESAMPLES))


def test_a_gain_common_to_all_images_is_certain() -> None:
    values = np.random.default_rng(0).normal(0, 10, NUM_IMAGES)
    weights = bootstrap_weights(NUM_IMAGES, 50, seed=1)
    difference = paired_bootstrap(weighted_mean(values), weighted_mean(values + 3), weights)
    assert difference.value[0] == pytest.approx(3)
    assert difference.std[0] == pytest.approx(0, abs=1e-12)


def test_a_statistic_that_is_kept_gives_the_same_difference() -> None:
    rng = np.random.default_rng(0)
    before, after = (weighted_mean(rng.normal(0, 1, NUM_IMAGES)) for _ in range(2))
    weights = bootstrap_weights(NUM_IMAGES, 50, seed=1)
    kept = difference(resample(before, weights), resample(after, weights))
    asked = paired_bootstrap(before, after, weights)
    assert (kept.value, kept.std) == (asked.value, asked.std)
    assert asked.std[0] > 0


def test_weights_are_draws_of_the_images() -> None:
    weights = bootstrap_weights(7, 100, seed=3)
    assert (weights.sum(axis=1) == 7).all()
    np.testing.assert_array_equal(weights, bootstrap_weights(7, 100, seed=3))
    assert (weights != bootstrap_weights(7, 100, seed=4)).any()


@pytest.mark.parametrize(("images", "resamples"), [(0, 10), (5, 1)])
def test_too_little_to_resample(images: int, resamples: int) -> None:
    with pytest.raises(ValueError, match="at least one image and two resamples"):
        bootstrap_weights(images, resamples)
