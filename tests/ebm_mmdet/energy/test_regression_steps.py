"""First steps by regression: f never falls, no step is the start, and what an oracle reaches."""

from __future__ import annotations

import pytest
import torch

from ebm_mmdet.energy import RegressingLogDensityFn, regression_steps, with_gaussian_prior
from ebm_mmdet.models.task_modules import GradientAscentRefiner

CENTRE = torch.tensor([[0.2, -0.1, 0.3, 0.0], [-0.4, 0.1, 0.0, 0.2], [0.0, 0.1, 0.0, -0.1]])


class Hill:
    """f_n(y) = -|y - c_n|² / 2; the regression says ``gain (c_n - y) + error_n``."""

    def __init__(self, centre=CENTRE, gain=1.0, error=None) -> None:
        self.centre, self.gain = centre, gain
        self.error = torch.zeros_like(centre) if error is None else error

    def __call__(self, y):
        return -0.5 * (y - self.centre[:, None]).square().sum(-1)

    def regress(self, y):
        return self(y), self.gain * (self.centre[:, None] - y) + self.error[:, None]

    def select(self, index):
        return Hill(self.centre[index], self.gain, self.error[index])


def wild(seed=0):
    return 0.5 * torch.randn(CENTRE.shape, generator=torch.Generator().manual_seed(seed))


def test_an_exact_regression_arrives_at_once():
    found = regression_steps(Hill(), torch.zeros(3, 4))
    torch.testing.assert_close(found.y, CENTRE)
    assert found.accepted.tolist() == [1, 1, 1]
    torch.testing.assert_close(found.log_density, torch.zeros(3))


@pytest.mark.parametrize("length", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_f_never_falls(length, num_steps):
    y0 = wild(1)
    for seed in range(20):
        fn = Hill(error=wild(seed))
        found = regression_steps(fn, y0, num_steps, length, return_trace=True)
        states = found.trace
        assert states.y.shape == (num_steps + 1, 3, 4)
        assert torch.equal(states.y[0], y0)
        assert torch.equal(states.y[-1], found.y)
        assert (states.log_density.diff(dim=0) >= 0).all()
        torch.testing.assert_close(states.log_density[-1], fn(found.y[:, None])[:, 0])
        stayed = ~states.accepted
        assert torch.equal(states.y[1:][stayed], states.y[:-1][stayed])
        assert torch.equal(states.accepted.sum(0), found.accepted)


def test_a_step_that_fails_is_tried_at_half_its_length():
    """The target lies at 1; a step of 3 leads to f = -2 < -1/2, one of 1.5 to f = -1/8."""
    fn = Hill(torch.tensor([[1.0]]), gain=0.0, error=torch.tensor([[3.0]]))
    y0 = torch.zeros(1, 1)
    assert regression_steps(fn, y0, 1).y.item() == 0.0
    assert regression_steps(fn, y0, 2).y.item() == 1.5
    assert regression_steps(fn, y0, 3).y.item() == 1.5  # from there, 3/2 more overshoots


def test_two_rounds_go_on_from_where_the_first_has_led():
    fn = Hill(gain=0.5)
    found = regression_steps(fn, torch.zeros(3, 4), 3)
    torch.testing.assert_close(found.y, (1 - 0.5**3) * CENTRE)


def test_length_zero_is_the_start():
    y0 = wild(2)
    found = regression_steps(Hill(), y0, 3, length=0.0)
    assert torch.equal(found.y, y0)
    assert not found.accepted.any()


def test_length_zero_is_the_climb_alone():
    fn, y0 = Hill(), wild(3)
    alone = GradientAscentRefiner(0.2, 3)(fn, y0)
    first = GradientAscentRefiner(0.2, 3, regression_steps=2, regression_length=0.0)(fn, y0)
    for one, other in zip(first[:3], alone[:3]):
        assert torch.equal(one, other)


def test_the_climb_begins_where_the_regression_has_led():
    fn, y0 = Hill(error=0.1 * wild(4)), torch.zeros(3, 4)
    first = regression_steps(fn, y0, 2)
    then = GradientAscentRefiner(0.2, 3)(fn, first.y)
    refiner = GradientAscentRefiner(0.2, 3, regression_steps=2, return_trace=True)
    found = refiner(fn, y0)
    assert torch.equal(found.y, then.y)
    assert torch.equal(found.accepted, first.accepted + then.accepted)
    assert found.trace.y.shape == (6, 3, 4)
    assert found.trace.accepted.shape == (5, 3)
    assert (found.trace.log_density.diff(dim=0) >= 0).all()
    assert torch.equal(found.trace.accepted.sum(0), found.accepted)


def test_without_a_climb_no_step_size_and_no_gradient_is_needed():
    class Flat(Hill):
        def __call__(self, y):
            return super().__call__(y.detach())

    found = GradientAscentRefiner(num_steps=0, regression_steps=1)(Flat(), torch.zeros(3, 4))
    torch.testing.assert_close(found.y, CENTRE)
    with pytest.raises(ValueError, match="needs step_size"):
        GradientAscentRefiner(num_steps=1, regression_steps=1)


def test_with_a_prior_the_posterior_never_falls():
    """A tight prior at the start refuses a full step that f alone would take."""
    y0, prior = torch.zeros(3, 4), dict(std=[0.05] * 4)
    fn = Hill()
    refiner = GradientAscentRefiner(num_steps=0, prior=prior, regression_steps=1)
    assert torch.equal(refiner(fn, y0).y, y0)
    loose = GradientAscentRefiner(num_steps=0, prior=dict(std=[5.0] * 4), regression_steps=1)
    found = loose(fn, y0)
    torch.testing.assert_close(found.y, CENTRE)
    torch.testing.assert_close(found.log_density, torch.zeros(3))  # f alone
    posterior = with_gaussian_prior(fn, y0, torch.full((4,), 0.05))
    assert isinstance(posterior, RegressingLogDensityFn)
    some = torch.tensor([2, 0])
    y = wild(5)[:, None]
    value, step = posterior.select(some).regress(y[some])
    torch.testing.assert_close(value, posterior(y)[some])
    torch.testing.assert_close(step, fn.regress(y)[1][some])


def test_several_starts_are_never_below_the_detection():
    fn, y0 = Hill(error=wild(6)), wild(7)
    refiner = GradientAscentRefiner(
        0.2, 2, regression_steps=1, num_starts=3, start_std=0.1, num_modes=2, return_trace=True
    )
    found = refiner(fn, y0)
    assert (found.log_density >= fn(y0[:, None])[:, 0]).all()
    assert torch.equal(found.accepted > 0, (found.y != y0).any(1))


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_and_spoils_no_other(broken):
    class Broken(Hill):
        def regress(self, y):
            f, step = super().regress(y)
            f = f.clone()
            f[0] = broken
            step[1] = broken
            return f, step

    found = regression_steps(Broken(), torch.zeros(3, 4), 2)
    assert torch.equal(found.y[:2], torch.zeros(2, 4))
    torch.testing.assert_close(found.y[2], CENTRE[2])
    assert found.log_density[0] == -torch.inf
    start = torch.zeros(3, 4)
    start[1] = torch.nan
    found = regression_steps(Hill(), start)
    assert found.y[1].isnan().all()
    torch.testing.assert_close(found.y[[0, 2]], CENTRE[[0, 2]])


def test_no_targets():
    found = GradientAscentRefiner(0.1, 2, regression_steps=2)(
        Hill(torch.zeros(0, 4)), torch.zeros(0, 4)
    )
    assert found.y.shape == (0, 4)
    assert found.accepted.shape == (0,)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_any_mode_of_the_caller(mode):
    with mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        y0 = torch.zeros(3, 4)
        found = GradientAscentRefiner(0.1, 1, regression_steps=1)(Hill(), y0)
    torch.testing.assert_close(found.y, CENTRE)
    assert not found.y.requires_grad


def test_messages():
    with pytest.raises(TypeError, match="no regression"):
        regression_steps(lambda y: -y.square().sum(-1), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="regression_length=-1"):
        GradientAscentRefiner(0.1, regression_steps=1, regression_length=-1)
    with pytest.raises(ValueError, match="regression_steps=-1"):
        GradientAscentRefiner(0.1, regression_steps=-1)
