"""Steps of Barzilai and Borwein: closed forms on parabolas, and what holds for every f."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm_mmdet.energy import gradient_ascent
from ebm_mmdet.energy.host_reads import without_reads


class Parabola:
    """f = -½ Σ c (y - m)², which counts its evaluations and may be narrowed."""

    def __init__(self, mode, curvature, seen=None):
        self.mode, self.curvature = mode, curvature
        self.seen = [] if seen is None else seen

    def __call__(self, y):
        self.seen.append(len(y))
        return -0.5 * (self.curvature[:, None] * (y - self.mode[:, None]).square()).sum(-1)

    def select(self, index):
        return Parabola(self.mode[index], self.curvature[index], self.seen)


def bumpy(y):
    """Elementwise, so that its bits do not depend on the batch; not finite far to the right."""
    waves = torch.sin(5 * y[..., 0]) + torch.cos(3 * y[..., 1]) - 0.1 * y.prod(-1).square()
    return torch.where(y[..., 0] > 2.5, torch.nan, waves)


def points(*shape, seed=0, dtype=torch.float32):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def parabolas(dtype=torch.float64):
    mode, y0 = (points(5, 3, seed=seed, dtype=dtype) for seed in (0, 1))
    return Parabola(mode, torch.linspace(0.1, 3, 15, dtype=dtype).reshape(5, 3)), y0


@pytest.mark.parametrize("curvature", [0.2, 3.0, 15.0])
def test_barzilai_borwein_is_at_the_top_of_a_round_parabola_in_two_steps(curvature):
    """In units of λ: curvatures c_d with λ_d c_d equal are round."""
    y0, mode = points(4, 3, dtype=torch.float64), points(4, 3, seed=1, dtype=torch.float64)
    unit = torch.tensor([1.0, 100.0, 1e-4], dtype=torch.float64)
    fn = Parabola(mode, (curvature / unit).expand(4, 3))
    result = gradient_ascent(fn, y0, 0.1 * unit, 2, acceleration="bb")
    torch.testing.assert_close(result.y, mode)


def test_barzilai_borwein_needs_fewer_steps_than_the_best_plain_ones():
    """Curvatures 1 to 30; the best plain step is 2 / (1 + 30), with a factor of 29/31 per step."""
    curvature = torch.tensor([[1.0, 4.0, 30.0]], dtype=torch.float64)
    y0 = torch.ones(1, 3, dtype=torch.float64)
    fn = Parabola(torch.zeros_like(y0), curvature)
    plain, found = (
        gradient_ascent(fn, y0, 2 / 31, 20, acceleration=each).log_density for each in (None, "bb")
    )
    assert found > plain / 10


@pytest.mark.parametrize("acceleration", [None, "bb"])
def test_for_large_t_all_reach_the_same_top(acceleration):
    fn, y0 = parabolas()
    result = gradient_ascent(fn, y0, 0.3, 600, acceleration=acceleration)
    torch.testing.assert_close(result.y, fn.mode, rtol=0, atol=1e-5)


@given(
    n=st.integers(1, 8),
    seed=st.integers(0, 10_000),
    step=st.floats(0, 3),
    num_steps=st.integers(0, 8),
    tolerance=st.sampled_from([0.0, 1e-3, 0.3]),
)
@settings(max_examples=30, deadline=None)
def test_f_never_falls_and_points_do_not_influence_each_other(n, seed, step, num_steps, tolerance):
    options = dict(acceleration="bb", tolerance=tolerance)
    y0 = points(n, 2, seed=seed)
    result = gradient_ascent(bumpy, y0, step, num_steps, return_trace=True, **options)
    assert (result.trace.log_density[1:] >= result.trace.log_density[:-1]).all()
    assert result.trace.log_density[1:].isfinite().sum() >= result.trace.accepted.sum()
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    shuffled = gradient_ascent(bumpy, y0[order], step, num_steps, **options)
    alone = gradient_ascent(bumpy, y0[:1], step, num_steps, **options)
    for whole, permuted, single in zip(result[:3], shuffled[:3], alone[:3]):
        assert torch.equal(whole[order], permuted)
        assert torch.equal(whole[:1], single)
    still = result.accepted == 0
    assert torch.equal(result.y[still], y0[still])


def test_points_that_are_not_finite_stay_and_harm_nobody():
    y0 = points(4, 2)
    alone = gradient_ascent(bumpy, y0[2:], 0.1, 5, acceleration="bb")
    y0[0, 1], y0[1, 0] = math.nan, math.inf
    result = gradient_ascent(bumpy, y0, 0.1, 5, acceleration="bb")
    torch.testing.assert_close(result.y[:2], y0[:2], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(result.y[2:], alone.y)
    assert result.accepted[:2].tolist() == [0, 0]


def test_a_coordinate_without_a_step_stays():
    fn, y0 = parabolas()
    step = torch.tensor([0.3, 0.0, 0.3])
    result = gradient_ascent(fn, y0, step, 8, acceleration="bb")
    assert torch.equal(result.y[:, 1], y0[:, 1])
    assert (result.y[:, [0, 2]] != y0[:, [0, 2]]).all()


@pytest.mark.parametrize("acceleration", [None, "bb"])
def test_without_reads_the_bits_are_the_same(acceleration):
    y0 = points(30, 2, 2)
    y0[3, 1] = math.nan
    found = []
    for mode in (nullcontext, without_reads):
        with mode():
            options = dict(acceleration=acceleration, tolerance=0.05)
            found.append(gradient_ascent(bumpy, y0, [0.7, 0.2], 12, return_trace=True, **options))
    for a, b in zip([*found[0][:3], *found[0].trace], [*found[1][:3], *found[1].trace]):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("acceleration", [None, "bb"])
@pytest.mark.parametrize("shape", [(0, 2), (0, 3, 2), (3, 0, 2)])
def test_nothing_to_refine(acceleration, shape):
    options = dict(acceleration=acceleration, tolerance=0.1, return_trace=True)
    result = gradient_ascent(bumpy, torch.zeros(shape), 0.1, 5, **options)
    assert result.y.shape == shape
    assert result.trace.y.shape == (6, *shape)
    assert result.trace.accepted.shape == (5, *shape[:-1])


def test_a_point_stops_where_its_next_step_promises_too_little():
    """To first order a step of size λ gains λ |∇f|²; here 0.1 · 0.9^2t in step t of the first."""
    fn = Parabola(torch.zeros(2, 1), torch.ones(2, 1))
    y0 = torch.tensor([[1.0], [0.1]])
    result = gradient_ascent(fn, y0, 0.1, 20, tolerance=0.04)
    promised = [0.1 * 0.9 ** (2 * t) for t in range(20)]
    steps = sum(gain >= 0.04 for gain in promised)
    assert 0 < steps < 20
    assert result.accepted.tolist() == [steps, 0]
    assert fn.seen == [2] + [1] * steps
    torch.testing.assert_close(result.y, torch.tensor([[0.9**steps], [0.1]]))


def test_refuses_bad_arguments():
    for options, message in [
        (dict(acceleration="newton"), "acceleration='newton' is unknown"),
        (dict(tolerance=-1e-3), "tolerance=-0.001"),
        (dict(tolerance=math.nan), "tolerance=nan"),
    ]:
        with pytest.raises(ValueError, match=message):
            gradient_ascent(bumpy, torch.zeros(3, 2), 0.1, 1, **options)
