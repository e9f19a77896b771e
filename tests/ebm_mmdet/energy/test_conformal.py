"""Bounds that hold for a further score, whatever the distribution of the scores is."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from ebm_mmdet.energy import (
    conformal_quantile,
    expected_coverage,
    fewest_scores,
    grouped_quantiles,
    interval_scores,
)


def by_definition(scores: list[float], level: str, clusters: list[int] | None = None) -> float:
    """The bound in exact arithmetic: the first score at which the weight reaches the level."""
    clusters = list(range(len(scores))) if clusters is None else clusters
    number = len(set(clusters))
    mass = Fraction(0)
    for score, cluster in sorted(zip(scores, clusters)):
        mass += Fraction(1, (number + 1) * clusters.count(cluster))
        if mass >= Fraction(level):
            return score
    return math.inf


@pytest.mark.parametrize("level", ["0.5", "0.55", "0.7", "0.9", "0.95", "0.99"])
@pytest.mark.parametrize("number", [0, 1, 2, 9, 10, 18, 19, 20, 99, 100, 101, 199])
def test_the_bound_is_the_kth_smallest_score(number, level):
    """k = ceil((n + 1) level), exactly, and infinite if there is no such score."""
    scores = torch.randperm(number, generator=torch.Generator().manual_seed(number)).float()
    bound = conformal_quantile(scores, float(level))
    k = math.ceil(Fraction(level) * (number + 1))
    assert bound.shape == ()
    assert bound.dtype == torch.float32
    assert bound.item() == (k - 1 if k <= number else math.inf)
    assert bound.item() == by_definition(scores.tolist(), level)
    assert bound.isfinite() == (number >= fewest_scores(float(level)))


def test_columns_and_clusters_are_those_of_the_definition():
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(60, 4, generator=generator)
    clusters = torch.randint(0, 17, (60,), generator=generator) * 5 - 20
    for level in ("0.3", "0.8", "0.94"):
        found = conformal_quantile(scores, float(level), clusters)
        columns = [by_definition(c.tolist(), level, clusters.tolist()) for c in scores.T]
        assert found.tolist() == columns
        alone = conformal_quantile(scores, float(level), torch.arange(60))
        assert torch.equal(alone, conformal_quantile(scores, float(level)))


@pytest.mark.parametrize("ties", [False, True])
def test_each_score_is_below_the_bound_of_the_others_as_often_as_promised(ties):
    """The guarantee, as an identity: leaving one out in turn is drawing from exchangeable scores.

    Without ties the share is ceil(n level) / n, from which it follows that no bound that is smaller
    would do.
    """
    scores = torch.distributions.Cauchy(0.0, 1.0).sample((50,)).abs()
    scores = scores.clamp(max=1.0) if ties else scores
    for level in (0.5, 0.9, 0.97):
        others = [torch.cat((scores[:i], scores[i + 1 :])) for i in range(50)]
        held = [bool(s <= conformal_quantile(rest, level)) for s, rest in zip(scores, others)]
        promised = math.ceil(50 * level - 1e-9)
        assert sum(held) >= promised if ties else sum(held) == promised


def test_a_random_member_of_each_cluster_is_below_the_bound_of_the_other_clusters():
    """The same for clusters whose members are all but equal, and of different sizes.

    Without clusters, the bound of the others holds too seldom for a random member.
    """
    generator = torch.Generator().manual_seed(5)
    sizes = torch.tensor([1] * 20 + [40] * 10)
    centres = torch.cat(
        (3 + torch.rand(20, generator=generator), torch.rand(10, generator=generator))
    )
    clusters = torch.repeat_interleave(torch.arange(30), sizes)
    scores = centres[clusters] + 0.01 * torch.rand(len(clusters), generator=generator)

    def held(**kwargs) -> float:
        shares = []
        for k in range(30):
            rest = clusters != k
            named = {name: value[rest] for name, value in kwargs.items()}
            bound = conformal_quantile(scores[rest], 0.8, **named)
            shares.append((scores[~rest] <= bound).float().mean())
        return float(torch.stack(shares).mean())

    assert held(clusters=clusters) >= 0.8
    assert held() < 0.6


def test_coverage_over_random_splits_is_in_the_band_of_the_theory():
    """100 splits: coverage of the test half is Beta-binomial, though the spread is far from right.

    Errors are heavy-tailed and skewed, and their size depends on the object in a way of which the
    predicted spread knows little.
    """
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    number, tests, level = 150, 800, 0.9
    k = math.ceil((number + 1) * level)
    band = stats.betabinom(tests, k, number + 1 - k)
    low, high = band.ppf(5e-4), band.ppf(1 - 5e-4)
    hits = []
    for _ in range(100):
        width = torch.rand(number + tests, 1, generator=generator) + 0.1
        noise = torch.randn(number + tests, 4, generator=generator)
        residual = width.square() * (noise + 0.3 * noise.square()) * torch.tensor([1.0, 2, 3, 4])
        spread = (width * torch.rand(number + tests, 4, generator=generator)).clamp(min=1e-3)
        scores = interval_scores(residual, spread[..., None].expand(-1, -1, 2))
        for one in (scores, scores.amax(1, keepdim=True)):
            bound = conformal_quantile(one[:number], level)
            hits.append((one[number:] <= bound).sum(0)[0].item())
    hits = torch.tensor(hits, dtype=torch.float64).view(100, 2)
    assert ((hits >= low) & (hits <= high)).all()
    mean, std = expected_coverage(number, level)
    assert mean == pytest.approx(k / (number + 1))
    assert std == pytest.approx(stats.beta(k, number + 1 - k).std())
    error = band.std() / tests / 10
    assert ((hits.mean(0) / tests - mean).abs() < 3.5 * error).all()


def test_a_truth_is_in_the_interval_exactly_if_its_score_is_below_the_bound():
    generator = torch.Generator().manual_seed(1)
    residual = torch.randn(200, 4, generator=generator)
    spread = torch.rand(200, 4, 2, generator=generator) + 0.1
    for q in (0.0, 0.5, 2.0):
        below, above = (q * spread).unbind(-1)
        inside = (residual >= -below) & (residual <= above)
        assert torch.equal(inside, interval_scores(residual, spread) <= q)


def test_what_is_not_finite_counts_as_a_miss():
    residual = torch.tensor([[0.0, math.nan, 1.0, 1.0, 1.0, 0.0]])
    spread = torch.ones(1, 6, 2)
    spread[0, 2, 1], spread[0, 3, 0], spread[0, 4, 1], spread[0, 5] = math.nan, math.inf, 0, 0
    assert interval_scores(residual, spread).tolist() == [[0.0] + 5 * [math.inf]]
    scores = torch.tensor([0.1, 0.2, math.nan, math.nan])
    assert conformal_quantile(scores, 0.4) == pytest.approx(0.2)
    assert conformal_quantile(scores, 0.5) == math.inf
    assert conformal_quantile(torch.zeros(0, 4), 0.5).tolist() == [math.inf] * 4


def test_groups_that_are_large_enough_have_bounds_of_their_own():
    """And what they leave is one group for each first, else for each second, else for all."""
    first = torch.tensor([0] * 40 + [1] * 25 + [2] * 9 + [3] * 8)
    second = torch.tensor(
        [0] * 30 + [1] * 10 + [0] * 9 + [1] * 11 + [2] * 5 + [1] * 9 + [1] * 5 + [2] * 3
    )
    scores = torch.arange(82.0)[:, None] * torch.tensor([1.0, -1.0])
    table, counts, source = grouped_quantiles(scores, 0.5, first, second, (5, 3), min_count=12)
    # (0, 0) alone; (0, 1) joins the rest of size 1 with (2, 1) and (3, 1); class 1 has none of 12,
    # and 25 in all; (3, 2) is left, and joins the smallest group.
    assert source.tolist() == [
        [0, 3, 3, 4],
        [1, 1, 1, 4],
        [3, 3, 3, 4],
        [3, 3, 3, 4],
        [3, 3, 3, 4],
        [4, 4, 4, 4],
    ]
    expected = {
        (0, 0): (first == 0) & (second == 0),
        (1, 0): first == 1,
        (2, 1): (first != 1) & (second != 0),
        (5, 3): first >= 0,
    }
    for place, members in expected.items():
        assert torch.equal(table[place], conformal_quantile(scores[members], 0.5))
        assert counts[place] == members.sum()
    assert torch.equal(table[3, 2], table[2, 1])


def test_bounds_of_groups_hold_for_all_together():
    """A rare pair with large errors must not lower the coverage, whatever it gets its bound from.

    With the bounds of its class it would be covered too seldom, and nothing would make up for it.
    """
    generator = torch.Generator().manual_seed(0)
    covered = []
    for _ in range(60):
        first = torch.randint(0, 3, (1200,), generator=generator)
        second = (torch.rand(1200, generator=generator) < 0.15).long()
        scores = torch.randn(1200, 1, generator=generator).abs() * (1 + 4 * second[:, None])
        half = slice(0, 600), slice(600, None)
        table, _, source = grouped_quantiles(
            scores[half[0]], 0.9, first[half[0]], second[half[0]], (3, 2), min_count=60
        )
        assert (source[:3, 0] == 0).all()
        bound = table[first[half[1]], second[half[1]]]
        covered.append((scores[half[1]] <= bound).float().mean())
    assert abs(float(torch.stack(covered).mean()) - 0.9) < 0.006


def test_a_group_below_the_level_never_has_infinite_bounds():
    first, second = torch.tensor([0] * 5 + [1] * 40), torch.zeros(45, dtype=torch.long)
    table, counts, _ = grouped_quantiles(torch.rand(45, 1), 0.9, first, second, (2, 1), min_count=1)
    assert table.isfinite().all()
    assert (counts == 45).all()  # five are too few for 0.9, and join the others
    clusters = torch.arange(45) // 9  # five images
    with pytest.raises(ValueError, match=r"5 scores cannot bound .* 0\.9; it takes 9 at least"):
        grouped_quantiles(
            torch.rand(45, 1), 0.9, first, second, (2, 1), min_count=1, clusters=clusters
        )


def test_groups_of_clusters_count_clusters():
    first = torch.tensor([0] * 60 + [1] * 30)
    clusters = torch.cat((torch.arange(60) // 10, torch.arange(30)))  # 6 images, and 30
    second = torch.zeros(90, dtype=torch.long)
    scores = torch.rand(90, 1, generator=torch.Generator().manual_seed(0))
    table, counts, source = grouped_quantiles(
        scores, 0.8, first, second, (2, 1), min_count=6, clusters=clusters
    )
    assert source[:2, 0].tolist() == [0, 0]
    assert counts[:2, 0].tolist() == [6, 30]
    alone = conformal_quantile(scores[:60], 0.8, clusters[:60])
    assert torch.equal(table[0, 0], alone)


@pytest.mark.parametrize("level", [0.0, 1.0, 90, -0.1, math.nan])
def test_a_level_that_is_no_probability_is_refused(level):
    for function in (
        lambda: conformal_quantile(torch.rand(5), level),
        lambda: fewest_scores(level),
        lambda: expected_coverage(5, level),
    ):
        with pytest.raises(ValueError, match="give a probability between 0 and 1"):
            function()
