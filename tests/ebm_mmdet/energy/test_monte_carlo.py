"""Sampled losses and their gradients against exact values and quadrature."""

import math

import pytest
import torch
from torch.distributions import Normal

from ebm_mmdet.energy import (
    GaussianMixtureNoise,
    MixtureDensity,
    ml_is_loss,
    nce_loss,
    proposal_kl_loss,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


BROAD = GaussianMixtureNoise([1.5], dim=1)


def samples(n, m, target):
    """Column 0 at the target, the others from N(0, 1.5²): points (n, 1+m) and their log q."""
    y, _ = BROAD.sample(n, m, seeded(), dtype=torch.float64)
    y = torch.cat([torch.full((n, 1, 1), target, dtype=torch.float64), y], dim=1)
    return y.squeeze(-1), BROAD.log_prob(y)


def test_ml_is_value_is_the_negative_log_likelihood():
    y, log_q = samples(64, 4096, 0.3)
    loss = ml_is_loss(-0.5 * y.square(), log_q)
    assert loss.item() == pytest.approx(0.5 * math.log(2 * math.pi) + 0.045, abs=0.005)


def test_ml_is_gradient_is_that_of_log_z():
    """f = -a y²/2: d log Z / da = -½ at a = 1, and the target at 0 adds nothing."""
    y, log_q = samples(32, 4096, 0.0)
    a = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(ml_is_loss(-0.5 * a * y.square(), log_q), a)
    assert gradient.item() == pytest.approx(-0.5, abs=0.008)


def test_nce_tends_to_the_negative_log_likelihood():
    """|J - log M - log q(y_0) - NLL| ≤ p / (M q) + noise; one row, and the mean of 64."""
    y, log_q = samples(64, 4096, 0.0)
    each = nce_loss(-0.5 * y.square(), log_q, reduction="none") - math.log(4096) - log_q[:, 0]
    nll = 0.5 * math.log(2 * math.pi)
    assert ((each - nll).abs() < 3.7e-4 + 0.035).all()
    assert each.mean().item() == pytest.approx(nll, abs=0.005)


def relative_errors(num_samples):
    """Errors of ML-IS gradients of all parameters of a small net, for 8 rows, and ESS/M."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    net = net.double()
    parameters = list(net.parameters())[:-1]  # a constant in f has no gradient

    def f(y):
        return net(y.unsqueeze(-1)).squeeze(-1) - 0.5 * y.square()

    def flat_gradient(loss):
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    grid = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    target = torch.tensor(0.4, dtype=torch.float64)
    log_z = (f(grid) + math.log(18 / 4000)).logsumexp(0)
    exact = flat_gradient(log_z - f(target))

    y, log_q = samples(8, num_samples, 0.4)
    errors, ess = [], []
    for row, q in zip(y, log_q):
        log_f = f(row)
        estimate = flat_gradient(ml_is_loss(log_f[None], q[None]))
        errors.append((estimate - exact).norm() / exact.norm())
        ess.append(1 / (log_f - q)[1:].softmax(0).square().sum() / num_samples)
    return torch.stack(errors).mean().item(), torch.stack(ess).mean().item()


def test_ml_is_is_consistent_for_every_parameter():
    """Error below 5 % for 2^16 samples, and halved by four times as many."""
    fine, ess = relative_errors(2**16)
    coarse, _ = relative_errors(2**14)
    assert ess > 0.5
    assert fine < 0.05
    assert 1.4 < coarse / fine < 2.9


MEAN, LOG_SIGMA = 0.5, math.log(1.5)


def proposal_gradient(log_p, mean, log_sigma):
    """Gradient of J_KL in (μ, log σ), for 1e5 samples as the proposal itself draws them."""
    mu, log_s = (torch.full((1, 1, 1), v, dtype=torch.float64) for v in (mean, log_sigma))
    q = MixtureDensity(torch.zeros_like(mu[0]), mu.requires_grad_(), log_s.requires_grad_())
    y = q.draw(100_000, seeded())
    loss = proposal_kl_loss(log_p(y.squeeze(-1)), q.log_prob(y))
    return [g.item() for g in torch.autograd.grad(loss, (mu, log_s))]


def reparameterized_gradient(log_p, mean, log_sigma):
    """The same expression with y = μ + σ ξ differentiated too: what must not be implemented."""
    mu, log_s = (
        torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (mean, log_sigma)
    )
    y = mu + log_s.exp() * normal(1, 100_000)
    loss = (log_p(y) - Normal(mu, log_s.exp()).log_prob(y)).logsumexp(1).sum()
    return [g.item() for g in torch.autograd.grad(loss, (mu, log_s))]


def standard_normal(y):
    return -0.5 * y.square() + 4.0


def test_result_1_for_a_gaussian():
    """∇ KL(N(0,1) ‖ N(0.5, 1.5²)) = (μ/σ², 1 - (1 + μ²)/σ²)."""
    gradient = proposal_gradient(standard_normal, MEAN, LOG_SIGMA)
    assert gradient[0] == pytest.approx(0.5 / 2.25, abs=0.0065)
    assert gradient[1] == pytest.approx(1 - 1.25 / 2.25, abs=0.011)


def test_reparameterised_samples_would_fail_by_more_than_a_hundred_standard_errors():
    """Gives the test above its power: that gradient is near zero."""
    wrong = reparameterized_gradient(standard_normal, MEAN, LOG_SIGMA)
    assert abs(wrong[0] - 0.5 / 2.25) > 100 * 0.0013
    assert abs(wrong[1] - (1 - 1.25 / 2.25)) > 100 * 0.0022


def test_result_1_for_two_modes():
    """p = 0.8 N(-1, 0.3²) + 0.2 N(1, 0.3²), q = N(0, 1.2²)."""

    def log_p(y):
        modes = torch.stack(
            [math.log(0.8) - ((y + 1) / 0.3) ** 2 / 2, math.log(0.2) - ((y - 1) / 0.3) ** 2 / 2]
        )
        return modes.logsumexp(0)

    gradient = proposal_gradient(log_p, 0.0, math.log(1.2))
    assert gradient[0] == pytest.approx(0.6 / 1.44, abs=0.0115)
    assert gradient[1] == pytest.approx(1 - 1.09 / 1.44, abs=0.0085)
