"""The NCE loss: algebra, extremes, reductions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ebm_mmdet.energy import GaussianMixtureNoise, nce_loss


def random_inputs(n=5, m=8, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    draw = [3 * torch.randn(n, 1 + m, generator=generator, dtype=dtype) for _ in range(2)]
    return draw[0].requires_grad_(), draw[1].requires_grad_()


@given(n=st.integers(1, 6), m=st.integers(0, 9), seed=st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_is_cross_entropy_with_the_positive_as_class(n, m, seed):
    log_f, log_q = random_inputs(n, m, seed)
    target = torch.zeros(n, dtype=torch.int64)
    expected = functional.cross_entropy(log_f - log_q, target, reduction="none")
    loss = nce_loss(log_f, log_q, reduction="none")
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    assert (loss >= 0).all()


@given(shift=st.floats(-1e3, 1e3), seed=st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_constant_per_target_changes_nothing(shift, seed):
    log_f, log_q = random_inputs(seed=seed)
    shifts = shift * torch.arange(1, 6, dtype=torch.float64)[:, None]
    expected = nce_loss(log_f, log_q, reduction="none")
    actual = nce_loss(log_f + shifts, log_q, reduction="none")
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_equal_logits_give_log_of_their_number():
    constant = torch.full((3, 128), 7.0)
    torch.testing.assert_close(nce_loss(constant, constant), torch.tensor(math.log(128)))


def test_order_of_the_noise_does_not_matter():
    log_f, log_q = random_inputs()
    order = torch.tensor([0, 3, 1, 8, 2, 7, 4, 6, 5])
    torch.testing.assert_close(nce_loss(log_f[:, order], log_q[:, order]), nce_loss(log_f, log_q))


def test_duplicated_noise():
    log_f, log_q = random_inputs()
    doubled = [torch.cat([value, value[:, 1:]], dim=1) for value in (log_f, log_q)]
    logits = log_f - log_q
    expected = torch.log1p(2 * (logits[:, 1:] - logits[:, :1]).exp().sum(1))
    torch.testing.assert_close(nce_loss(*doubled, reduction="none"), expected)


def test_gradient_in_closed_form():
    """∂L/∂a_m = softmax(a)_m - [m = 0], the opposite sign for log q."""
    log_f, log_q = random_inputs()
    grad_f, grad_q = torch.autograd.grad(nce_loss(log_f, log_q, reduction="sum"), (log_f, log_q))
    expected = (log_f - log_q).softmax(1)
    expected[:, 0] -= 1
    torch.testing.assert_close(grad_f, expected)
    torch.testing.assert_close(grad_q, -expected)


def test_gradcheck():
    weight = torch.tensor([1.0, 0.0, 0.5, 2.0, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda f, q: nce_loss(f, q, weight=weight, avg_factor=3.0), random_inputs()
    )


@pytest.mark.parametrize(
    ("log_f", "log_q"),
    [
        ([1e4, -1e4], [0.0, 0.0]),
        ([-1e4, 1e4], [0.0, 0.0]),
        ([1e4, 1e4], [-1e3, -1e3]),
        ([0.0, 0.0], [-1e4, 1e4]),
        ([0.0, 0.0], [1e4, -1e4]),
        ([-1e4, -1e4, -1e4], [-1e3, -1e3, -1e3]),
        ([0.0, 1e4, 0.0, -1e4], [5.0, -1e3, 5.0, 5.0]),
    ],
)
def test_extremes_are_finite_and_exact(log_f, log_q):
    single = torch.tensor([log_f]).requires_grad_()
    loss = nce_loss(single, torch.tensor([log_q]))
    (grad,) = torch.autograd.grad(loss, single)
    double = nce_loss(single.double(), torch.tensor([log_q], dtype=torch.float64))
    assert grad.isfinite().all()
    torch.testing.assert_close(loss.double(), double, rtol=1e-5, atol=1e-5)


def test_small_loss_beside_large_values_is_exact():
    """logsumexp(a) - a_0 in float32 would round this to 0 at |a| = 1e4."""
    loss = nce_loss(torch.tensor([[10000.0, 9990.0]]), torch.zeros(1, 2))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-10)), rel=2e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(dtype):
    log_f, log_q = (value.detach().to(dtype) for value in random_inputs())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nce_loss(log_f, log_q)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, nce_loss(log_f.float(), log_q.float()))


def test_masked_noise_does_not_exist():
    log_f, log_q = random_inputs(n=1, m=6)
    valid = torch.tensor([[True, True, False, True, False, False, True]])
    expected = nce_loss(log_f[valid][None], log_q[valid][None])
    poisoned = log_f.detach().clone().masked_fill_(~valid, torch.nan).requires_grad_()
    loss = nce_loss(poisoned, log_q, valid=valid)
    torch.testing.assert_close(loss, expected)
    (grad,) = torch.autograd.grad(loss, poisoned)
    assert (grad[~valid] == 0).all()
    assert (grad[valid] != 0).all()


def test_positive_is_never_masked_and_alone_costs_nothing():
    log_f, log_q = random_inputs()
    nothing = torch.zeros_like(log_f, dtype=torch.bool)
    assert nce_loss(log_f, log_q, valid=nothing).item() == 0
    assert not nothing.any(), "the caller's mask must not be written to"


def test_reductions():
    log_f, log_q = random_inputs(n=4)
    each = nce_loss(log_f, log_q, reduction="none")
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=torch.float64)
    weighted = each * weight
    close = torch.testing.assert_close
    assert each.shape == (4,)
    close(nce_loss(log_f, log_q), each.mean())
    close(nce_loss(log_f, log_q, reduction="sum"), each.sum())
    close(nce_loss(log_f, log_q, weight=weight, reduction="none"), weighted)
    close(nce_loss(log_f, log_q, weight=weight, reduction="none", avg_factor=3.0), weighted)
    close(nce_loss(log_f, log_q, weight=weight, reduction="sum"), weighted.sum())
    close(nce_loss(log_f, log_q, weight=weight), weighted.sum() / 4)
    mean = weighted.sum() / 3
    close(nce_loss(log_f, log_q, weight=weight, avg_factor=3.0), mean, rtol=1e-6, atol=0)
    close(
        nce_loss(log_f, log_q, weight=weight, avg_factor=torch.tensor(3.0)), mean, rtol=1e-6, atol=0
    )


def test_weight_zero_leaves_no_gradient():
    log_f, log_q = random_inputs(n=2)
    loss = nce_loss(log_f, log_q, weight=torch.tensor([0.0, 1.0]))
    (grad,) = torch.autograd.grad(loss, log_f)
    assert (grad[0] == 0).all()
    assert (grad[1] != 0).all()


@pytest.mark.parametrize(
    ("reduction", "avg_factor"), [("mean", None), ("mean", 0.0), ("mean", 5.0), ("sum", None)]
)
def test_no_targets_give_a_zero_connected_to_the_graph(reduction, avg_factor):
    parameter = torch.ones(3, requires_grad=True)
    log_f = torch.zeros(0, 3) * parameter
    loss = nce_loss(log_f, torch.zeros(0, 3), reduction=reduction, avg_factor=avg_factor)
    assert loss.item() == 0
    (grad,) = torch.autograd.grad(loss, parameter)
    assert torch.equal(grad, torch.zeros(3))


def test_refuses_what_has_no_meaning():
    log_f, log_q = random_inputs()
    with pytest.raises(ValueError, match="reduction='sum'"):
        nce_loss(log_f, log_q, reduction="sum", avg_factor=2.0)
    with pytest.raises(ValueError, match="reduction='median'"):
        nce_loss(log_f, log_q, reduction="median")
    with pytest.raises(ValueError, match="one factor per target"):
        nce_loss(log_f, log_q, weight=torch.ones(5, 9))
    for bad in (log_q[:, 1:], log_q[0], log_q[:, :1]):
        with pytest.raises(ValueError, match="positive in column 0"):
            nce_loss(log_f, bad)


@pytest.mark.parametrize(("beta", "mean", "std"), [(0.0, 12.91, 1.05), (0.1, 12.78, 1.06)])
def test_loss_of_a_flat_density(beta, mean, std):
    """f ≡ 0 with the box noise and 128 points: reference values by simulation."""
    noise = GaussianMixtureNoise((0.075, 0.15, 0.3), dim=4)
    generator = torch.Generator().manual_seed(0)
    positive = torch.zeros(4000, 1, 4)
    if beta > 0:
        positive, _ = noise.scaled(beta).sample(4000, 1, generator)
    _, log_q = noise.sample(4000, 127, generator)
    log_q = torch.cat([noise.log_prob(positive), log_q], dim=1)
    loss = nce_loss(torch.zeros(4000, 128), log_q, reduction="none")
    assert loss.mean().item() == pytest.approx(mean, abs=0.085)  # five standard errors
    assert loss.std().item() == pytest.approx(std, abs=0.06)


def independent_noise_gradient(a):
    """d/da of the M = 1 loss for f = -a y²/2, data N(0, 1), noise N(0, 1.5²)."""
    generator = torch.Generator().manual_seed(0)
    noise = GaussianMixtureNoise([1.5], dim=1)
    data = torch.randn(200_000, 1, 1, generator=generator, dtype=torch.float64)
    offsets, _ = noise.sample(200_000, 1, generator, dtype=torch.float64)
    y = torch.cat([data, offsets], dim=1)
    a = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    loss = nce_loss(-0.5 * a * y.squeeze(-1).square(), noise.log_prob(y))
    return torch.autograd.grad(loss, a)[0].item()


@pytest.mark.parametrize(("a", "expected"), [(1.0, 0.0), (0.8, -0.0739), (1.25, 0.0597)])
def test_independent_noise_is_unbiased_for_any_number_of_samples(a, expected):
    assert independent_noise_gradient(a) == pytest.approx(expected, abs=0.006)
