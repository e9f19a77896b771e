"""Calibrated intervals are those of MAPIE, a library of its own for split conformal prediction."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet, which `make test` installs")

from ebm_mmdet.apis import MatchedSides, fit_intervals
from ebm_mmdet.energy import conformal_quantile, fewest_scores, interval_scores

base = pytest.importorskip("sklearn.base", reason="MAPIE works on estimators of scikit-learn")
regression = pytest.importorskip("mapie.regression", reason="needs MAPIE (requirements/test.txt)")
conformity_scores = pytest.importorskip("mapie.conformity_scores")


class Column(base.RegressorMixin, base.BaseEstimator):
    """An estimator that "predicts" a column of its input: a side, or its spread."""

    def __init__(self, column: int) -> None:
        self.column = column
        self.n_features_in_ = 2

    def fit(self, x, y):
        return self

    def predict(self, x):
        return np.asarray(x)[:, self.column]


def mapie_reach(side, spread, truth, level: float, further) -> np.ndarray:
    """(m, 2) distances of MAPIE's interval ends from ``further`` sides (m, 2: side, spread)."""
    score = conformity_scores.ResidualNormalisedScore(Column(1), prefit=True)
    mapie = regression.SplitConformalRegressor(
        Column(0), confidence_level=level, conformity_score=score, prefit=True
    )
    mapie.conformalize(np.stack((side, spread), 1), truth)
    _, intervals = mapie.predict_interval(further)
    return np.stack((further[:, 0] - intervals[:, 0, 0], intervals[:, 1, 0] - further[:, 0]), 1)


def draw(number: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sides' residuals (n, 4) with long tails, and spreads (n, 4) that know little of them."""
    generator = torch.Generator().manual_seed(seed)
    size = 0.1 + torch.rand(number, 1, generator=generator, dtype=torch.float64)
    residual = size * torch.randn(number, 4, generator=generator, dtype=torch.float64).pow(3)
    spread = size * (0.2 + torch.rand(number, 4, generator=generator, dtype=torch.float64))
    return residual, spread


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("number", [8, 9, 19, 37, 100, 500])
def test_each_side_has_the_interval_of_mapie(number, level):
    """It refuses fewer than 1 / (1 - level) scores, of which ours take one less."""
    residual, spread = draw(number, number)
    scores = interval_scores(residual, spread[..., None].expand(-1, -1, 2))
    bounds = conformal_quantile(scores, level).numpy()
    further = np.array([[10.0, 0.5], [-3.0, 2.0]])
    predicted = np.linspace(-50, 50, number)
    for side in range(4):
        given = predicted, spread[:, side].numpy(), predicted + residual[:, side].numpy()
        assert math.isfinite(bounds[side]) == (number >= fewest_scores(level))
        if number * (1 - level) < 1 - 1e-9:
            with pytest.raises(ValueError, match="too low"):
                mapie_reach(*given, level, further)
            continue
        reach = mapie_reach(*given, level, further)
        np.testing.assert_allclose(reach, bounds[side] * further[:, 1:].repeat(2, 1), rtol=1e-6)


@pytest.mark.parametrize("joint", [False, True])
def test_the_bounds_of_a_calibration_are_those_of_mapie_in_each_group(joint):
    """Groups are disjoint, so each has its own calibration; joint: on the largest score."""
    number, level = 900, 0.9
    residual, spread = draw(number, 3)
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(0, 3, (number,), generator=generator)
    size = torch.where(torch.rand(number, generator=generator) < 0.5, 20.0, 60.0)
    sides = MatchedSides(
        residual=residual,
        spread=spread[..., None].expand(-1, -1, 2),
        boxes=torch.stack((0 * size, 0 * size, size, size), 1),
        labels=labels,
        image=torch.arange(number) // 5,
        kind="std",
    )
    found = fit_intervals(sides, 3, level, joint=joint, min_count=100)
    assert found.facts["source"][0][:2] == [0, 0]  # of their own
    for label in range(3):
        for place, width in enumerate((20.0, 60.0)):
            rows = (labels == label) & (size == width)
            if joint:
                score = (residual / spread)[rows].abs().amax(1, keepdim=True).numpy()
            else:
                score = (residual / spread)[rows].numpy()
            zero, one = np.zeros(len(score)), np.ones(len(score))
            unit = np.array([[0.0, 1.0]])
            ends = [mapie_reach(zero, one, column, level, unit)[0, 1] for column in score.T]
            bounds = found.bounds[label, place].numpy()
            np.testing.assert_allclose(bounds, np.float32(ends), rtol=1e-6)


def test_both_cover_a_further_half_equally_often():
    """And as often as they say, where a Gaussian of the stated spread does not."""
    residual, spread = draw(4000, 7)
    first, level = torch.arange(4000) < 2000, 0.9
    scores = interval_scores(residual, spread[..., None].expand(-1, -1, 2))
    held = (scores[~first] <= conformal_quantile(scores[first], level)).double().mean(0)
    for side in range(4):
        predicted, s = np.zeros(2000), spread[:, side].numpy()
        further = np.stack((predicted, s[~first]), 1)
        truth = residual[:, side].numpy()
        reach = mapie_reach(predicted, s[first], truth[first], level, further)
        theirs = (np.abs(truth[~first]) <= reach[:, 1]).mean()
        assert theirs == pytest.approx(float(held[side]), abs=1e-12)
        assert theirs == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / 1000))
    z = NormalDist().inv_cdf((1 + level) / 2)
    assert float((scores[~first] <= z).double().mean()) < 0.8
