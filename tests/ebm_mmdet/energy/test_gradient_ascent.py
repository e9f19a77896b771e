"""Gradient ascent against closed forms, a naive loop, and every statement of its docstring."""

import contextlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm_mmdet.energy import gradient_ascent


def bumpy(y):
    """Elementwise, many modes, wide range of curvatures: the same bits in any batch."""
    return torch.sin(5 * y[..., 0]) + torch.cos(3 * y[..., 1]) - 0.1 * (y[..., 0] * y[..., 1]) ** 2


class Quadratic:
    """f = -½ Σ c (y - m)²; mode and curvature per target, (N, D)."""

    def __init__(self, mode, curvature):
        self.mode, self.curvature = mode, curvature

    def __call__(self, y):
        return -0.5 * (self.curvature[:, None] * (y - self.mode[:, None]).square()).sum(-1)


class Counted:
    """Counts evaluations, points and backward passes; offers ``select`` on demand."""

    def __init__(self, fn, log=None):
        self.fn = fn
        self.log = {"forward": [], "backward": 0} if log is None else log

    def __call__(self, y):
        self.log["forward"].append(y.shape[0] * y.shape[1])
        f = self.fn(y)
        f.register_hook(self._count)
        return f

    def _count(self, gradient):
        self.log["backward"] += 1


class Selectable(Counted):
    def select(self, index):
        return Selectable(Quadratic(self.fn.mode[index], self.fn.curvature[index]), self.log)


def random_points(*shape, seed=0, dtype=torch.float32):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def naive_ascent(fn, y, step, num_steps, decay):
    """The published loop for one point (D,): two evaluations per step, plus the guard for NaN."""
    moves = 0
    for _ in range(num_steps):
        leaf = y.clone().requires_grad_()
        f0 = fn(leaf[None, None])
        (slope,) = torch.autograd.grad(f0.sum(), leaf)
        proposal = y + step * slope
        f1 = fn(proposal[None, None])
        if f1 >= f0 and f1.isfinite():
            moves += not torch.equal(proposal, y)
            y = proposal
        else:
            step = step * decay
    return y, moves


def test_climbs_a_quadratic_in_closed_form():
    """y_T = m + (1 - λ c)^T (y_0 - m), coordinate by coordinate."""
    mode, y0 = (random_points(5, 3, seed=s, dtype=torch.float64) for s in (0, 1))
    curvature = torch.linspace(0.5, 1.5, 15, dtype=torch.float64).reshape(5, 3)
    result = gradient_ascent(Quadratic(mode, curvature), y0, 0.3, 12, return_trace=True)
    rate = (1 - 0.3 * curvature) ** torch.arange(13)[:, None, None]
    torch.testing.assert_close(result.trace.y, mode + rate * (y0 - mode))
    assert result.accepted.tolist() == [12] * 5


def test_overshooting_steps_shrink_until_they_hold():
    """λ c = 3.6 diverges; after one halving the factor is 1 - 1.8 and the climb converges."""
    fn = Quadratic(torch.ones(1, 2), torch.ones(1, 2))
    result = gradient_ascent(fn, torch.zeros(1, 2), 3.6, 6, return_trace=True)
    assert result.trace.accepted[:, 0].tolist() == [False, True, True, True, True, True]
    torch.testing.assert_close(result.y, 1 - torch.full((1, 2), -0.8) ** 5)


def test_a_failed_step_shrinks_the_whole_vector():
    """Only coordinate 0 overshoots, but both steps are halved."""
    fn = Quadratic(torch.zeros(1, 2), torch.tensor([[3.6, 0.2]]))
    result = gradient_ascent(fn, torch.ones(1, 2), 1.0, 2)
    torch.testing.assert_close(result.y, torch.tensor([[1 - 1.8, 1 - 0.1]]))


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_equals_the_naive_loop_bit_for_bit(decay):
    y0 = random_points(40, 2, dtype=torch.float64)
    step = torch.tensor([0.5, 0.3], dtype=torch.float64)
    result = gradient_ascent(bumpy, y0, step, 12, decay=decay)
    for i, start in enumerate(y0):
        y, moves = naive_ascent(bumpy, start, step, 12, decay)
        assert torch.equal(result.y[i], y)
        assert result.accepted[i] == moves
    assert 0 < result.accepted.sum() < 40 * 12, "the case must mix success and failure"


def test_finds_the_mode_of_its_basin():
    def mixture(y):
        peaks = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])
        return (-(y.unsqueeze(-2) - peaks).square().sum(-1) / 0.08).logsumexp(-1)

    y0 = torch.tensor([[-0.8, 0.3], [1.3, 0.2]])
    result = gradient_ascent(mixture, y0, 0.02, 60)
    torch.testing.assert_close(result.y, torch.tensor([[-1.0, 0.0], [1.0, 0.5]]))


@pytest.mark.parametrize("island", [math.nan, math.inf, -math.inf])
def test_never_enters_an_island_where_f_is_not_finite(island):
    def fn(y):
        f = -y.square().sum(-1)
        inside = (y[..., 0] - 0.5).abs() < 0.25
        return torch.where(inside, torch.full_like(f, island), f)

    y0 = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    result = gradient_ascent(fn, y0, 0.2, 30, return_trace=True)
    assert result.trace.log_density.isfinite().all()
    assert result.y[0, 0] >= 0.75, "stopped at the shore"
    torch.testing.assert_close(result.y[1], torch.zeros(2), rtol=0, atol=1e-3)


def test_start_without_finite_value_moves_only_with_a_finite_gradient():
    def nan_far_out(y):
        return -y.square().sum(-1) + torch.where(y[..., 0] > 1, torch.nan, 0.0)

    def nan_slope(y):
        return nan_far_out(y) * y.sum(-1).sqrt()

    y0 = torch.tensor([[2.0, 0.0], [0.5, 0.0]])
    result = gradient_ascent(nan_far_out, y0, 0.4, 10, return_trace=True)
    torch.testing.assert_close(result.y, torch.zeros(2, 2), rtol=0, atol=1e-3)
    assert result.trace.log_density[0, 0] == -math.inf

    stuck = gradient_ascent(nan_slope, y0[:1], 0.4, 10)
    assert torch.equal(stuck.y, y0[:1])
    assert stuck.accepted.item() == 0
    assert stuck.log_density.item() == -math.inf


def test_point_that_is_not_finite_stays_and_harms_nobody():
    y0 = random_points(4, 2)
    alone = gradient_ascent(bumpy, y0[1:], 0.1, 5)
    y0[0, 1] = math.nan
    result = gradient_ascent(bumpy, y0, 0.1, 5)
    assert torch.equal(result.y.isnan(), y0.isnan())
    assert result.accepted[0] == 0
    assert torch.equal(result.y[1:], alone.y)


def test_start_at_infinity_stays_even_if_f_and_project_are_finite_there():
    y0 = torch.tensor([[math.inf], [0.5]])
    result = gradient_ascent(
        lambda y: -y.clamp(max=2).square().sum(-1), y0, 0.1, 3, project=lambda y: y.clamp(max=1)
    )
    assert result.y[0] == math.inf
    assert result.accepted.tolist() == [0, 3]


def test_steps_out_of_the_number_range_are_rejected_and_never_scored():
    """The first 2 λ overflow; f is finite, and highest, at infinity."""

    def fn(y):
        assert y.isfinite().all()
        return torch.tanh(2 * y).sum(-1)

    result = gradient_ascent(fn, torch.zeros(1, 1), 3e38, 2, return_trace=True)
    assert result.trace.accepted[:, 0].tolist() == [False, True]
    assert result.y.item() == torch.tensor(3e38).item()


def test_ties_are_accepted():
    result = gradient_ascent(lambda y: -y.abs().sum(-1), torch.full((1, 1), 0.5), 1.0, 1)
    assert result.y.item() == -0.5
    assert result.accepted.item() == 1


@pytest.mark.parametrize(
    ("curvature", "step", "backward"),
    [(1.0, 0.1, 7), (1.0, 1e30, 1)],
    ids=["all accepted", "all rejected"],
)
def test_cost(curvature, step, backward):
    fn = Counted(Quadratic(torch.ones(3, 2), torch.full((3, 2), curvature)))
    gradient_ascent(fn, torch.zeros(3, 2), step, 7)
    assert fn.log == {"forward": [3] * 8, "backward": backward}


def test_zero_steps_only_evaluate():
    y0 = random_points(3, 2)
    fn = Counted(Quadratic(torch.zeros(3, 2), torch.ones(3, 2)))
    result = gradient_ascent(fn, y0, 0.1, 0, return_trace=True)
    assert fn.log == {"forward": [3], "backward": 0}
    assert torch.equal(result.y, y0)
    assert result.y is not y0
    assert torch.equal(result.log_density, fn.fn(y0[:, None])[:, 0])
    assert result.accepted.tolist() == [0, 0, 0]
    assert result.trace.y.shape == (1, 3, 2)
    assert result.trace.accepted.shape == (0, 3)


def test_points_that_never_moved_keep_every_bit():
    """A flat f, a zero step, and a step that always fails."""
    y0 = random_points(4, 2)
    fn = Quadratic(torch.zeros(4, 2), torch.tensor([[0.0, 0], [1, 1], [1, 1], [1, 1]]))
    step = torch.tensor([[1.0, 1], [0, 0], [1e30, 1e30], [0.1, 0.1]])
    result = gradient_ascent(fn, y0, step, 9)
    assert torch.equal(result.y[:3], y0[:3])
    assert result.accepted.tolist() == [0, 0, 0, 9]


def test_converged_targets_are_no_longer_evaluated():
    mode = torch.ones(4, 2)
    curvature = torch.tensor([[0.0, 0], [1, 1], [1, 1], [0.5, 0.5]])
    y0 = torch.zeros(4, 2)
    y0[2] = 1  # starts on its mode
    fn = Selectable(Quadratic(mode, curvature))
    # λ c = 1 lands on the mode in one step, where the gradient is zero.
    result = gradient_ascent(fn, y0, 1.0, 6, return_trace=True)
    assert fn.log["forward"] == [4, 2, 1, 1, 1, 1, 1]
    plain = Counted(fn.fn)
    expected = gradient_ascent(plain, y0, 1.0, 6, return_trace=True)
    assert plain.log["forward"] == [4] * 7
    for actual, wanted in zip(result[:3] + result.trace, expected[:3] + expected.trace):
        assert torch.equal(actual, wanted)


def test_target_without_a_finite_gradient_is_no_longer_evaluated():
    mode = torch.tensor([[math.nan, 0.0], [1.0, 1.0]])
    fn = Selectable(Quadratic(mode, torch.ones(2, 2)))
    result = gradient_ascent(fn, torch.zeros(2, 2), 0.1, 3)
    assert fn.log["forward"] == [2, 1, 1, 1]
    assert result.accepted.tolist() == [0, 3]


def test_climb_ends_when_nobody_moves():
    fn = Counted(Quadratic(torch.ones(2, 2), torch.ones(2, 2)))
    result = gradient_ascent(fn, torch.zeros(2, 2), 1.0, 50, return_trace=True)
    assert len(fn.log["forward"]) == 2
    assert result.accepted.tolist() == [1, 1]
    assert result.trace.y.shape == (51, 2, 2)
    assert torch.equal(result.trace.y[-1], result.y)


def test_trace_tells_the_whole_story():
    y0 = random_points(30, 2)
    result = gradient_ascent(bumpy, y0, 0.4, 10, return_trace=True)
    y, log_density, accepted = result.trace
    assert torch.equal(y[0], y0)
    assert torch.equal(y[-1], result.y)
    assert torch.equal(log_density[-1], result.log_density)
    assert torch.equal(log_density, bumpy(y))
    assert (log_density.diff(dim=0) >= 0).all()
    assert torch.equal((y[1:] != y[:-1]).any(-1), accepted)
    assert torch.equal(accepted.sum(0), result.accepted)
    assert 0 < accepted.float().mean() < 1
    without = gradient_ascent(bumpy, y0, 0.4, 10)
    assert without.trace is None
    assert all(torch.equal(a, b) for a, b in zip(without[:3], result[:3]))


def test_several_starts_per_target_climb_independently():
    y0 = random_points(6, 5, 2)
    step = random_points(6, 2, seed=3).abs() * 0.2
    result = gradient_ascent(bumpy, y0, step, 8, return_trace=True)
    flat = gradient_ascent(
        bumpy, y0.flatten(0, 1), step.repeat_interleave(5, dim=0), 8, return_trace=True
    )
    assert torch.equal(result.y.flatten(0, 1), flat.y)
    assert torch.equal(result.log_density.flatten(), flat.log_density)
    assert torch.equal(result.accepted.flatten(), flat.accepted)
    assert torch.equal(result.trace.y.flatten(1, 2), flat.trace.y)
    assert result.trace.accepted.shape == (8, 6, 5)


@given(
    n=st.integers(1, 12),
    seed=st.integers(0, 10_000),
    step=st.floats(0, 3),
    num_steps=st.integers(0, 8),
)
@settings(max_examples=60, deadline=None)
def test_batch_composition_order_and_monotony(n, seed, step, num_steps):
    y0 = random_points(n, 2, seed=seed)
    result = gradient_ascent(bumpy, y0, step, num_steps)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    shuffled = gradient_ascent(bumpy, y0[order], step, num_steps)
    alone = gradient_ascent(bumpy, y0[:1], step, num_steps)
    for whole, permuted, single in zip(result[:3], shuffled[:3], alone[:3]):
        assert torch.equal(whole[order], permuted)
        assert torch.equal(whole[:1], single)
    assert (result.log_density >= bumpy(y0)).all()
    still = result.accepted == 0
    assert torch.equal(result.y[still], y0[still])
    assert (result.accepted <= num_steps).all()


@pytest.mark.parametrize(
    "step", [0.2, [0.2, 0.2], torch.full((2,), 0.2), torch.full((3, 2), 0.2, dtype=torch.float64)]
)
def test_forms_of_the_step_size(step):
    expected = gradient_ascent(bumpy, random_points(3, 2), 0.2, 5)
    result = gradient_ascent(bumpy, random_points(3, 2), step, 5)
    assert torch.equal(result.y, expected.y)


MODES = {
    "grad": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("mode", MODES)
def test_works_in_every_mode_and_leaves_parameters_alone(mode):
    torch.manual_seed(0)
    head = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    computed = []
    for parameter in head.parameters():
        parameter.register_hook(computed.append)
    head[0].bias.grad = torch.ones(8)

    def fn(y):
        return head(y).squeeze(-1)

    start = random_points(4, 2)
    expected = gradient_ascent(fn, start, 0.1, 5)
    with MODES[mode]():
        fn(start)  # fills autocast's cache of weights with tensors of this mode
        result = gradient_ascent(fn, start + 0, 0.1, 5, return_trace=True)
        grad_mode = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        assert grad_mode == (mode in ("grad", "autocast"), mode == "inference")
    assert torch.equal(result.y, expected.y)
    assert (result.accepted > 0).all()
    assert not computed, "a gradient of a parameter was computed"
    assert [p.grad is None for p in head.parameters()] == [True, False, True, True]
    assert torch.equal(head[0].bias.grad, torch.ones(8))
    for value in (*result[:3], *result.trace):
        assert not value.requires_grad
        assert not value.is_inference()


def test_input_is_neither_written_to_nor_tracked():
    y0 = random_points(3, 2).requires_grad_()
    before = y0.detach().clone()
    result = gradient_ascent(bumpy, y0, 0.2, 5)
    assert torch.equal(y0, before)
    assert y0.grad is None
    assert not result.y.requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype(dtype):
    y0 = random_points(3, 2).to(dtype)
    result = gradient_ascent(bumpy, y0, 0.2, 5)
    expected = gradient_ascent(bumpy, y0.to(result.y.dtype), 0.2, 5)
    assert result.y.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.equal(result.y, expected.y)


@pytest.mark.parametrize("shape", [(0, 2), (0, 3, 2), (3, 0, 2)])
def test_nothing_to_refine(shape):
    def never(y):
        raise AssertionError("there is nothing to evaluate")

    result = gradient_ascent(never, torch.zeros(shape), 0.1, 5, return_trace=True)
    assert result.y.shape == shape
    assert result.log_density.shape == result.accepted.shape == shape[:-1]
    assert result.trace.y.shape == (6, *shape)


def test_project_wraps_and_floors_proposals():
    """An angle climbs across ±π, a size is held at its floor; y0 itself is left as it is."""

    def project(y):
        angle, size = y.unbind(-1)
        angle = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        return torch.stack([angle, size.clamp(min=0.5)], dim=-1)

    def fn(y):
        return torch.cos(y[..., 0] + 3.0) - y[..., 1]  # mode at angle -3, size as small as can be

    y0 = torch.tensor([[2.9, 0.9]])
    result = gradient_ascent(fn, y0, 0.3, 60, project=project, return_trace=True)
    torch.testing.assert_close(result.y, torch.tensor([[-3.0, 0.5]]), rtol=1e-3, atol=0)
    assert (result.trace.y[..., 1] >= 0.5).all()
    outside = torch.tensor([[-3.0, 0.2]])
    assert torch.equal(gradient_ascent(fn, outside, 0.3, 9, project=project).y, outside)


def test_f_that_ignores_y_is_an_error_with_a_remedy():
    for fn in (lambda y: y.detach().sum(-1), lambda y: torch.ones(3, 1, requires_grad=True) * 2):
        with pytest.raises(RuntimeError, match="remove the no_grad"):
            gradient_ascent(fn, torch.zeros(3, 2), 0.1, 1)


def test_refuses_bad_arguments():
    y0 = torch.zeros(3, 2)
    for arguments, message in [
        ((torch.zeros(2), 0.1, 1), "y0 has shape"),
        ((y0, -0.1, 1), "not negative"),
        ((y0, math.nan, 1), "not negative"),
        ((y0, [0.1, 0.1, 0.1], 1), "does not fit"),
        ((y0, torch.zeros(2, 2), 1), "does not fit"),
        ((y0, 0.1, -1), "num_steps=-1"),
        ((y0, 0.1, 1, 1.5), "decay=1.5"),
    ]:
        with pytest.raises(ValueError, match=message):
            gradient_ascent(bumpy, *arguments)
    with pytest.raises(ValueError, match=r"expected one value per point, \(3, 1\)"):
        gradient_ascent(lambda y: y, y0, 0.1, 1)
