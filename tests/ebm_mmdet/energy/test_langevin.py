"""Langevin chains against the autoregressive process they are on a quadratic."""

import math

import pytest
import torch

from ebm_mmdet.energy import MCMCObjective, langevin


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def quadratic(curvature=1.0):
    return lambda y: -0.5 * curvature * y.square().sum(-1)


def start(n, s, value=2.0, dim=1, dtype=torch.float64):
    return torch.full((n, s, dim), value, dtype=dtype)


@pytest.mark.parametrize("common_start", [False, True])
def test_moments_after_sixteen_steps(common_start):
    """ρ = 1 - λ²/2: mean ρ^L y_0, variance λ² (1 - ρ^2L) / (1 - ρ²); 1e5 chains."""
    if common_start:
        y = langevin(quadratic(), start(1, 1), 0.5, 16, generator=seeded(), num_chains=100_000)
    else:
        y = langevin(quadratic(), start(10, 10_000), 0.5, 16, generator=seeded())
    assert y.numel() == 100_000
    assert y.mean().item() == pytest.approx(2 * 0.875**16, abs=0.017)
    assert y.var().item() == pytest.approx(1.0518, abs=0.024)


def test_steps_per_coordinate():
    step = torch.tensor([0.5, 0.0, 0.1], dtype=torch.float64)
    y = langevin(quadratic(), start(1, 20_000, 1.0, 3), step, 1, generator=seeded())
    mean, std = y[0].mean(0), y[0].std(0)
    torch.testing.assert_close(mean, 1 - step.square() / 2, rtol=0, atol=5 * 0.5 / 141)
    torch.testing.assert_close(std, step, rtol=0.03, atol=0)
    assert (y[..., 1] == 1).all()


def test_common_start_is_the_same_chain_with_one_first_gradient():
    calls = []

    def f(y):
        calls.append(y.shape[1])
        return torch.sin(3 * y).sum(-1)

    y0 = start(3, 1, 0.3, 2)
    common = langevin(f, y0, 0.3, 4, generator=seeded(), num_chains=5)
    each = langevin(f, y0.expand(3, 5, 2), 0.3, 4, generator=seeded())
    assert torch.equal(common, each)
    assert calls == [1, 5, 5, 5, 5, 5, 5, 5]


def test_no_steps_return_the_starts():
    y0 = torch.randn(2, 3, 4, generator=seeded())
    assert torch.equal(langevin(quadratic(), y0, 0.1, 0), y0)
    assert langevin(quadratic(), y0[:, :1], 0.1, 0, num_chains=5).shape == (2, 5, 4)


def test_chains_are_constants_and_parameters_get_nothing():
    scale = torch.tensor(2.0, requires_grad=True)
    y0 = start(2, 3, dtype=torch.float32).requires_grad_()
    y = langevin(lambda y: -scale * y.square().sum(-1), y0, 0.1, 5, generator=seeded())
    assert not y.requires_grad
    assert scale.grad is None
    assert y0.grad is None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_in_any_mode(mode):
    weight = torch.ones(3, requires_grad=True)

    def f(y):
        return -(weight * y.square()).sum(-1)

    expected = langevin(f, start(2, 3, dim=3), 0.1, 5, generator=seeded())
    with mode():
        assert torch.equal(langevin(f, start(2, 3, dim=3), 0.1, 5, generator=seeded()), expected)


def test_diverging_chain_is_nan_alone_and_f_never_sees_it():
    """f rises without end beyond 3: those chains leave the number range within a few steps."""

    def f(y):
        assert y.isfinite().all()
        return torch.where(y > 3, y.exp().square(), -0.5 * y.square()).sum(-1)

    y0 = torch.tensor([[[0.0], [4.0], [0.5]], [[1.0], [-1.0], [5.0]]])
    y = langevin(f, y0, 0.3, 12, generator=seeded())
    assert y.isnan().squeeze(-1).tolist() == [[False, True, False], [False, False, True]]


def test_clip_shortens_the_drift_and_nothing_else():
    direction = torch.tensor([3.0, 4.0])
    for slope, clip, expected in [(10.0, 1.0, 1.0), (0.1, 1.0, 0.5), (1e30, 2.0, 2.0)]:
        y = langevin(
            lambda y, a=slope: (a * direction * y).sum(-1),
            torch.zeros(1, 1, 2),
            1.0,
            1,
            grad_clip=clip,
            generator=seeded(),
        )
        noise = torch.randn(1, 1, 2, generator=seeded())
        drift = (y - noise).squeeze()
        torch.testing.assert_close(drift, 0.5 * expected * direction / 5)
    flat = langevin(lambda y: 0 * y.sum(-1), torch.zeros(1, 9, 2), 0.1, 3, grad_clip=1.0)
    assert flat.isfinite().all()


def test_clip_keeps_chains_that_would_diverge():
    """λ² · curvature = 25 > 4."""
    y0 = start(1, 100, 1.0)
    free, held = (langevin(quadratic(1e4), y0, 0.05, 100, clip, seeded()) for clip in (None, 10.0))
    assert free.abs().max() > 1e30
    assert held.abs().max() < 2


def test_objective_leaves_out_and_counts_lost_chains():
    """Target 0 is calm; at target 60 all chains are lost; both give finite gradients."""
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)

    def f(y):
        return scale * torch.where(y > 3, y.exp().square(), -0.5 * y.square()).sum(-1)

    objective = MCMCObjective(0.3, 12, num_samples=20)
    targets = torch.tensor([[0.0], [60.0]], dtype=torch.float64)
    result = objective(f, targets, generator=seeded())
    result["loss"].backward()
    assert result["lost_chains"].item() == 0.5
    assert all(value.isfinite() for value in result.values())
    assert scale.grad.isfinite()

    chains = langevin(f, targets.unsqueeze(1), 0.3, 12, generator=seeded(), num_chains=20)
    calm = chains[0]
    assert result["loss"].item() == pytest.approx(f(calm).mean().item() / 2)
    assert result["chain_distance"].item() == pytest.approx(calm.square().mean().sqrt().item())
    assert result["log_density_gap"].item() == pytest.approx(-f(calm).mean().item())


def test_objective_leaves_out_chains_that_end_where_f_is_not_finite():
    def f(y):
        return torch.where(y > 0.1, -math.inf, -0.5 * y.square()).sum(-1)

    result = MCMCObjective(0.5, 1, num_samples=1000)(f, torch.zeros(1, 1), generator=seeded())
    assert 0.3 < result["lost_chains"].item() < 0.55
    assert result["loss"].isfinite()


def test_gradient_of_the_objective_is_that_of_likelihood_at_equilibrium():
    """f = -a y²/2 with long chains: E[∂L/∂a] = y*²/2 - E[y²]/2, by the sampled variance."""
    a = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    targets = torch.randn(50, 1, generator=seeded(), dtype=torch.float64)
    objective = MCMCObjective(0.5, 40, num_samples=2000)
    loss = objective(lambda y: -0.5 * a * y.square().sum(-1), targets, generator=seeded(1))["loss"]
    loss.backward()
    stationary = 1 / (1 - 0.25 / 4)
    expected = 0.5 * targets.square().mean().item() - 0.5 * stationary
    assert a.grad.item() == pytest.approx(expected, abs=0.02)


def test_refuses_bad_arguments():
    y0 = torch.zeros(2, 3, 2)
    cases = [
        ((y0[0], 0.1, 1), r"expected starts \(N, S, D\)"),
        ((y0, (0.1,) * 3, 1), "step_size of shape"),
        ((y0, -0.1, 1), "step_size must be finite"),
        ((y0, math.nan, 1), "step_size must be finite"),
        ((y0, 0.1, -1), "num_steps=-1"),
        ((y0, 0.1, 1, 0.0), "grad_clip=0.0"),
        ((y0, 0.1, 1, None, None, 4), "one start per target"),
        ((y0[:, :1], 0.1, 1, None, None, 0), "num_chains=0"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            langevin(quadratic(), *arguments)
