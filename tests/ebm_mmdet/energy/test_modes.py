"""Several starts, distinct modes, and their masses against quadrature."""

from __future__ import annotations

import math

import pytest
import torch

from ebm_mmdet.energy import (
    best_of_groups,
    distinct_modes,
    gradient_ascent,
    highest_end,
    importance_weights,
    mass_around,
    mass_by_nearest,
)

CENTRES = torch.tensor([[0.3, 0.1], [-0.5, 0.0]], dtype=torch.float64)
WIDTHS = torch.tensor([0.05, 0.09], dtype=torch.float64)
SHARES = torch.tensor([0.3, 0.7], dtype=torch.float64)
STARTS = torch.tensor([[0.0, 0.0], [0.2, 0.2], [-0.4, 0.1], [0.35, 0.05]], dtype=torch.float64)


def two_hills(y: torch.Tensor) -> torch.Tensor:
    """log(0.3 N(c₁, 0.05²) + 0.7 N(c₂, 0.09²)) + 3: the narrow hill is higher, with less mass."""
    z = (y.unsqueeze(-2) - CENTRES.to(y)) / WIDTHS.to(y)[:, None]
    log_parts = SHARES.to(y).log() - 0.5 * z.square().sum(-1) - 2 * WIDTHS.to(y).log()
    return log_parts.logsumexp(-1) + 3


def mass_by_quadrature(modes: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """The integral of p over the points nearest to each mode, on a grid of 1,000² points."""
    axis = torch.linspace(-1.2, 1.0, 1000, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    p = two_hills(grid[None])[0].softmax(0)
    nearest = ((grid[:, None] - modes) / std).square().sum(-1).argmin(1)
    return torch.zeros(len(modes), dtype=torch.float64).scatter_add(0, nearest, p)


def ends_of_climbs() -> tuple[torch.Tensor, torch.Tensor]:
    ends = gradient_ascent(two_hills, STARTS.expand(3, -1, -1), 1e-3, 60)
    return ends.y, ends.log_density


@pytest.mark.parametrize("num_modes", [1, 2, 3, 4])
def test_modes_are_distinct_and_sorted_by_log_density(num_modes):
    modes = distinct_modes(two_hills, *ends_of_climbs(), num_modes)
    assert modes.shape == (3, num_modes, 2)
    expected = torch.full((num_modes, 2), torch.nan, dtype=torch.float64)
    expected[:2] = CENTRES[:num_modes]
    torch.testing.assert_close(modes, expected.expand(3, -1, -1), atol=1e-3, rtol=0, equal_nan=True)


def test_a_dip_that_is_shallower_than_the_valley_separates_nothing():
    def ripples(y):
        return 0.4 * torch.cos(20 * y[..., 0]) - y[..., 0].square()

    y = torch.tensor([[[0.0], [math.pi / 10], [-math.pi / 10]]])
    f = ripples(y)
    assert torch.isnan(distinct_modes(ripples, y, f, 3)[0, 1:]).all()
    assert distinct_modes(ripples, y, f, 3, valley=0.5).isfinite().all()


def test_ends_where_f_is_not_finite_are_no_modes():
    def broken(y):
        return torch.full_like(y[..., 0], torch.nan)

    y = STARTS[None]
    modes = distinct_modes(broken, y, torch.full((1, 4), -torch.inf), 2)
    assert torch.equal(modes[:, 0], y[:, 0])
    assert torch.isnan(modes[:, 1]).all()
    assert torch.isnan(mass_around(broken, modes, torch.ones(2), torch.randn(8, 2))).all()


@pytest.mark.parametrize("form", ["one", "per target", "lower triangles"])
def test_mass_against_quadrature(form):
    std = torch.tensor([0.4, 0.3], dtype=torch.float64)
    given = {
        "one": std,
        "per target": std.expand(3, -1),
        "lower triangles": torch.diag_embed(std).expand(3, -1, -1),
    }[form]
    modes = distinct_modes(two_hills, *ends_of_climbs(), 3)
    expected = mass_by_quadrature(modes[0, :2], std)
    assert expected[0] == pytest.approx(0.3, abs=0.01)  # the hills are far apart
    noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)).double()
    mass = mass_around(two_hills, modes, given, noise)
    torch.testing.assert_close(mass[:, :2], expected.expand(3, -1), atol=0.015, rtol=0)
    torch.testing.assert_close(mass[:, :2].sum(1), torch.ones(3).double())
    assert torch.isnan(mass[:, 2]).all()


def test_mass_by_nearest_counts_weights_and_ignores_modes_that_are_missing():
    samples = torch.tensor([[[0.0], [0.4], [0.6], [3.0]]])
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    modes = torch.tensor([[[0.0], [1.0], [torch.nan]]])
    mass = mass_by_nearest(samples, weights, modes, torch.ones(1))
    torch.testing.assert_close(mass[:, :2], torch.tensor([[0.3, 0.7]]))
    assert torch.isnan(mass[0, 2])


def test_samples_of_a_learned_proposal_give_the_same_mass():
    generator = torch.Generator().manual_seed(1)
    samples = 0.6 * torch.randn(1, 20_000, 2, generator=generator).double()
    log_q = (-0.5 * (samples / 0.6).square().sum(-1)).float()
    w = importance_weights(two_hills(samples), log_q)
    mass = mass_by_nearest(samples, w.weights, CENTRES[None], torch.ones(2).double())
    torch.testing.assert_close(mass, SHARES[None], atol=0.03, rtol=0)


def test_the_highest_end_is_kept_with_its_trace_and_a_start_elsewhere_is_a_move():
    y0 = torch.zeros(3, 2)
    starts = torch.cat([y0[:, None], STARTS[1:].float().expand(3, -1, -1)], dim=1)
    ends = gradient_ascent(two_hills, starts, 1e-3, 60, return_trace=True)
    best = highest_end(ends, y0)
    assert torch.equal(best.log_density, ends.log_density.amax(1))
    assert torch.equal(best.trace.y[-1], best.y)
    assert best.trace.y.shape == (61, 3, 2)
    assert best.trace.accepted.shape == (60, 3)
    assert torch.equal(best.trace.log_density[-1], best.log_density)
    torch.testing.assert_close(best.y, CENTRES[:1].float().expand(3, -1), atol=1e-3, rtol=0)
    still = highest_end(gradient_ascent(two_hills, starts[:, 3:], 1e-3, 0), y0)
    assert still.accepted.tolist() == [1, 1, 1]
    same = highest_end(gradient_ascent(two_hills, starts[:, :1], 1e-3, 0), y0)
    assert same.accepted.tolist() == [0, 0, 0]


def test_best_of_groups_is_the_best_of_each_consecutive_group():
    points = torch.arange(10.0).view(1, 5, 2)
    f = torch.tensor([[3.0, 1.0, 2.0, -torch.inf, 0.0]])
    best = best_of_groups(points, f, 2)
    assert best.tolist() == [[[0.0, 1.0], [8.0, 9.0]]]


def test_no_targets():
    y = torch.zeros(0, 4, 2)
    modes = distinct_modes(two_hills, y, torch.zeros(0, 4), 2)
    assert modes.shape == (0, 2, 2)
    assert mass_around(two_hills, modes, torch.ones(2), torch.randn(6, 2)).shape == (0, 2)
