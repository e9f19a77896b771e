"""KL-Loss: values and gradients in closed form, limits of α, and no NaN."""

from __future__ import annotations

import math
import pydoc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.losses import SmoothL1Loss
from mmdet.registry import MODELS

from ebm_mmdet.models.losses import KLLoss, kl_loss, limit_alpha
from tests.tolerances import TOLERANCE

SMOOTH = {0.0: 0.0, 0.5: 0.125, 1.0: 0.5, 2.0: 1.5}
"""Smooth L1 with beta 1 at some distances."""


def tensor(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("distance", SMOOTH)
def test_values_of_equations_9_and_10(distance, alpha):
    for sign in (-1, 1):
        found = kl_loss(tensor(3.0), tensor(3.0 + sign * distance), tensor(alpha))
        assert found.item() == pytest.approx(math.exp(-alpha) * SMOOTH[distance] + alpha / 2)
        found = kl_loss(tensor(3.0), tensor(3.0 + sign * distance), tensor(alpha), "gaussian")
        assert found.item() == pytest.approx(math.exp(-alpha) * distance**2 / 2 + alpha / 2)


@pytest.mark.parametrize("form", ["smooth", "gaussian"])
@pytest.mark.parametrize("distance", [-2.5, -0.4, 0.3, 0.999, 1.001, 4.0])
def test_gradients_in_closed_form(form, distance):
    pred, target, alpha = tensor(0.2), tensor(0.2 + distance), tensor(-0.7)
    pred.requires_grad_()
    alpha.requires_grad_()
    kl_loss(pred, target, alpha, form).sum().backward()
    precision, d = math.exp(0.7), abs(distance)
    linear = form == "smooth" and d > 1
    slope = 1.0 if linear else d
    cost = d - 0.5 if linear else d * d / 2
    assert pred.grad.item() == pytest.approx(-math.copysign(precision * slope, distance))
    assert alpha.grad.item() == pytest.approx(0.5 - precision * cost)


def test_gradcheck_away_from_the_seam():
    pred = tensor(0.0, 0.1, -3.0, 5.0).requires_grad_()
    alpha = tensor(-2.0, 0.0, 1.0, 3.0).requires_grad_()
    target = tensor(0.4, -0.5, 1.0, 1.0)
    for form in ("smooth", "gaussian"):
        assert torch.autograd.gradcheck(
            lambda p, a, f=form: kl_loss(p, target, a, f), (pred, alpha)
        )


def test_value_and_slope_are_continuous_at_one():
    eps = 1e-7
    d = tensor(1 - eps, 1 + eps).requires_grad_()
    loss = kl_loss(d, torch.zeros_like(d), torch.full_like(d, -1.0))
    loss.sum().backward()
    torch.testing.assert_close(loss[0], loss[1], rtol=0, atol=4 * math.e * eps)
    torch.testing.assert_close(d.grad[0], d.grad[1], rtol=0, atol=4 * math.e * eps)


@settings(max_examples=50, deadline=None)
@given(
    st.floats(0.01, 20), st.sampled_from(["smooth", "gaussian"]), st.sampled_from([-0.1, 0.1, 2.0])
)
def test_the_best_variance_for_a_distance(distance, form, off):
    variance = distance**2 if form == "gaussian" or distance <= 1 else 2 * distance - 1
    best = tensor(math.log(variance))

    def value(alpha):
        return kl_loss(tensor(0.0), tensor(distance), alpha, form).item()

    assert value(best) < value(best + off)
    assert value(best) == pytest.approx(0.5 + 0.5 * math.log(variance), abs=1e-9)


def test_gaussian_form_is_the_likelihood_without_its_constant():
    pred, target, alpha = torch.randn(3, 50, dtype=torch.float64)
    density = torch.distributions.Normal(pred, torch.exp(alpha / 2))
    torch.testing.assert_close(
        kl_loss(pred, target, alpha, "gaussian") + 0.5 * math.log(2 * math.pi),
        -density.log_prob(target),
        **TOLERANCE[torch.float64],
    )


def test_without_uncertainty_it_is_smooth_l1():
    pred, target = 2 * torch.randn(2, 30, 4)
    weight = torch.rand(30, 4)
    torch.testing.assert_close(
        KLLoss()(pred, target, torch.zeros(30, 4), weight, avg_factor=17),
        SmoothL1Loss(beta=1.0)(pred, target, weight, avg_factor=17),
    )


def test_gradients_are_those_of_the_three_parts_with_stopped_gradients():
    """The released code adds the data term twice, each time with half of its gradients."""
    pred, target, alpha = 2 * torch.randn(3, 40, 4, dtype=torch.float64)
    pred.requires_grad_()
    alpha.requires_grad_()
    smooth = torch.nn.functional.smooth_l1_loss(pred, target, reduction="none")
    parts = (-alpha.detach()).exp() * smooth + (-alpha).exp() * smooth.detach() + alpha / 2
    expected = torch.autograd.grad(parts.sum(), (pred, alpha))
    found = torch.autograd.grad(kl_loss(pred, target, alpha).sum(), (pred, alpha))
    torch.testing.assert_close(found, expected)


def test_it_learns_mean_and_variance_of_each_side():
    torch.manual_seed(0)
    spread = torch.tensor([0.05, 0.2, 0.4, 1.5])
    targets = torch.tensor([0.1, -0.2, 0.3, 0.0]) + spread * torch.randn(500, 4)
    both = torch.zeros(2, 4, requires_grad=True)
    optimizer = torch.optim.LBFGS([both], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        mean, log_variance = (x.expand(500, 4) for x in both)
        loss = KLLoss(form="gaussian")(mean, targets, log_variance)
        loss.backward()
        return loss

    optimizer.step(closure)
    pred, alpha = both.detach()
    torch.testing.assert_close(pred, targets.mean(0), atol=5e-3, rtol=0)
    variance = (targets - targets.mean(0)).square().mean(0)
    torch.testing.assert_close(alpha, variance.log(), atol=1e-2, rtol=0)


def test_reduction_weights_and_factor():
    pred, target, alpha = torch.randn(3, 5, 4)
    weight = torch.rand(5, 4)
    each = kl_loss(pred, target, alpha)
    loss = KLLoss(loss_weight=2.0)
    torch.testing.assert_close(loss(pred, target, alpha), 2 * each.mean())
    torch.testing.assert_close(
        loss(pred, target, alpha, weight, avg_factor=7), 2 * (weight * each).sum() / 7
    )
    torch.testing.assert_close(
        loss(pred, target, alpha, weight, reduction_override="none"), 2 * weight * each
    )
    torch.testing.assert_close(KLLoss(reduction="sum")(pred, target, alpha), each.sum())
    assert isinstance(MODELS.build(dict(type="KLLoss", form="gaussian")), KLLoss)


def test_no_box_gives_a_connected_zero():
    pred, alpha = torch.randn(2, 0, 4).requires_grad_()
    for avg_factor in (None, 0, 12):
        loss = KLLoss()(pred, torch.zeros(0, 4), alpha, avg_factor=avg_factor)
        assert loss.item() == 0
        assert loss.requires_grad


def test_it_may_be_negative():
    loss = KLLoss()(torch.zeros(3, 4), torch.zeros(3, 4), torch.full((3, 4), -4.0))
    assert loss.item() == pytest.approx(-2.0)


EXTREMES = [-math.inf, -1e30, -200.0, -11.0, 0.0, 11.0, 200.0, 65504.0, math.inf]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("form", ["smooth", "gaussian"])
@pytest.mark.parametrize("limits", [(-10.0, 10.0), None])
def test_extreme_values_stay_finite(dtype, form, limits):
    pred, alpha = torch.meshgrid(
        torch.tensor([-6e4, 0.0, 1e-3, 1e3], dtype=dtype),
        torch.tensor(EXTREMES, dtype=dtype),
        indexing="ij",
    )
    pred, alpha = pred.clone().requires_grad_(), alpha.clone().requires_grad_()
    loss = KLLoss(form=form, alpha_limits=limits)(pred, torch.zeros_like(pred), alpha)
    assert loss.dtype == torch.float32
    loss.backward()
    for value in (loss, pred.grad, alpha.grad):
        # A half-precision gradient may overflow, which a gradient scaler handles; NaN may not be.
        assert not value.isnan().any()
    if dtype == torch.float32:
        assert torch.isfinite(loss)
        assert torch.isfinite(alpha.grad).all()


def test_autocast_computes_in_float32():
    pred, target, alpha = torch.randn(3, 6, 4)
    expected = KLLoss()(pred, target, alpha)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = KLLoss()(pred, target, alpha)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_limits_clamp_and_let_alpha_return():
    alpha = torch.tensor([-12.0, -12.0, 0.0, 12.0, 12.0], requires_grad=True)
    limited = limit_alpha(alpha, (-10, 10))
    torch.testing.assert_close(limited, torch.tensor([-10.0, -10.0, 0.0, 10.0, 10.0]))
    # Descent goes against these: outward, inward, anywhere, inward, outward.
    limited.backward(torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0]))
    torch.testing.assert_close(alpha.grad, torch.tensor([0.0, -1.0, 1.0, 1.0, 0.0]))


def test_a_lost_alpha_finds_back():
    alpha = torch.tensor([-25.0, 25.0], requires_grad=True)
    for _ in range(300):
        loss = KLLoss()(torch.zeros(2), torch.full((2,), 0.5), alpha)
        (gradient,) = torch.autograd.grad(loss, alpha)
        alpha = (alpha - 0.1 * gradient.sign()).detach().requires_grad_()
    torch.testing.assert_close(alpha.detach(), torch.full((2,), math.log(0.25)), atol=0.11, rtol=0)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="the same shape"):
        kl_loss(torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="'huber'"):
        kl_loss(torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(2, 4), "huber")
    for limits in ((3, -3), (-1000, 0), (float("nan"), 1)):
        with pytest.raises(ValueError, match="alpha_limits"):
            KLLoss(alpha_limits=limits)


def test_the_full_dotted_path_resolves():
    """No function of the package hides the module of the class."""
    assert pydoc.locate(f"{KLLoss.__module__}.KLLoss") is KLLoss
