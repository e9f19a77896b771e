"""Where each objective has its minimum, on Gaussian families with a known answer.

f = -a y²/2 + b y is the log-density of N(b/a, 1/a); in R^D, f = -½ yᵀ A y + bᵀ y.
"""

import math

import pytest
import torch

from ebm_mmdet.energy import (
    DSMObjective,
    GaussianMixtureNoise,
    KLDISObjective,
    MLISObjective,
    NCEObjective,
    ScoreMatchingObjective,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def standardized(n):
    """Targets (n, 1) whose sample mean and variance are exactly 0 and 1."""
    data = normal(n, 1)
    data = data - data.mean()
    return data / data.square().mean().sqrt()


def family(a, b=0.0):
    return lambda y: (-0.5 * a * y.square() + b * y).squeeze(-1)


def leaf(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def gradient_in_a(objective, data, a, generator):
    a = leaf(a)
    return torch.autograd.grad(objective(family(a), data, generator=generator)["loss"], a)[0].item()


def test_score_matching_is_solved_by_the_sample_moments():
    data = 2 + 0.7 * normal(200, 1)
    mean, variance = data.mean().item(), data.var(correction=0).item()
    a, b = leaf(1 / variance), leaf(mean / variance)
    loss = ScoreMatchingObjective()(family(a, b), data)["loss"]
    expected = -a + 0.5 * (b - a * data).square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    assert all(g.abs() < 1e-10 for g in torch.autograd.grad(loss, (a, b)))


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_score_matching_in_many_dimensions(trace):
    """A = S⁻¹, b = A m; one Rademacher probe is exact in expectation only, here for A alone."""
    data = normal(300, 3) @ normal(3, 3, seed=1) + normal(3, seed=2)
    mean = data.mean(0)
    precision = torch.linalg.inv((data - mean).T @ (data - mean) / len(data))
    matrix = precision.clone().requires_grad_()
    vector = (precision @ mean).requires_grad_()
    objective = ScoreMatchingObjective(trace, probes=200)
    loss = objective(
        lambda y: -0.5 * ((y @ matrix) * y).sum(-1) + y @ vector, data, generator=seeded()
    )["loss"]
    grad_matrix, grad_vector = torch.autograd.grad(loss, (matrix, vector))
    assert grad_vector.abs().max() < 1e-10
    if trace == "exact":
        assert (grad_matrix + grad_matrix.T).abs().max() < 1e-10
    else:
        assert grad_matrix.diag().abs().max() < 1e-10
        assert grad_matrix.abs().max() < 5 / math.sqrt(200 * 300)


def test_denoising_score_matching_is_least_squares():
    """At the solution of the regression of -ε/σ² on b - a ỹ, for the noise that was drawn."""
    data, drawn = 1 + normal(100, 1), []
    objective = DSMObjective(0.5, 8)
    objective(lambda y: drawn.append(y.detach()) or -y.square().sum(-1), data, generator=seeded())
    noisy = drawn[0].flatten()
    noise = (drawn[0] - data.unsqueeze(1)).flatten()
    design = torch.stack([-noisy, torch.ones_like(noisy)], dim=1)
    solution = torch.linalg.lstsq(design, (-noise / 0.25).unsqueeze(1)).solution.flatten()
    a, b = (leaf(value) for value in solution.tolist())
    loss = objective(family(a, b), data, generator=seeded())["loss"]
    assert all(g.abs() < 1e-8 for g in torch.autograd.grad(loss, (a, b)))


@pytest.mark.parametrize("scale_by_sigma", [False, True])
def test_denoising_score_matching_learns_the_smoothed_density(scale_by_sigma):
    """Minimum at a = 1 / (v + σ²) = 0.8: zero of the gradient, linear in a; 1e5 draws."""
    data, objective = normal(100_000, 1), DSMObjective(0.5, 1, scale_by_sigma)
    low, high = (gradient_in_a(objective, data, a, seeded(1)) for a in (0.5, 1.0))
    assert 0.5 - low * 0.5 / (high - low) == pytest.approx(0.8, abs=0.025)


def test_value_of_denoising_score_matching_for_a_flat_density():
    """Σ_d σ_d^-2 = 711 for boxes with σ = 0.075, and D when scaled."""
    for scaled, expected in [(False, 4 / 0.075**2), (True, 4.0)]:
        result = DSMObjective(0.075, 128, scaled)(
            lambda y: 0 * y.sum(-1), torch.zeros(500, 4), generator=seeded()
        )
        assert result["loss"].item() == pytest.approx(expected, rel=0.015)


def mean_and_error(objective, data, a, repeats=20):
    """Monte-Carlo mean of the gradient in a over independent draws, and its standard error."""
    values = torch.tensor(
        [gradient_in_a(objective, data, a, seeded(seed)) for seed in range(repeats)]
    )
    return values.mean().item(), (values.std() / math.sqrt(repeats)).item()


NOISE = GaussianMixtureNoise([1.0, 2.0], dim=1)


@pytest.mark.parametrize(
    ("objective", "variance", "num_targets"),
    [
        (MLISObjective(NOISE, 1024), 1.0, 200),
        (KLDISObjective(NOISE, 1024, label_sigma=0.5), 1.25, 200),
        (KLDISObjective(NOISE, 1024, label_sigma=0.5, self_normalize=True), 1.25, 200),
        (NCEObjective(NOISE, 1024), 1.0, 200),
        (NCEObjective(NOISE, 256, beta=0.3), 1 + 0.3**2 * 2.5, 2000),
        (NCEObjective(NOISE, 8, beta=0.3, exchangeable=True), 1 + 0.3**2 * 2.5, 10_000),
    ],
    ids=["ml_is", "kld_is", "kld_is_self", "nce", "nce_plus", "nce_plus_exchangeable"],
)
def test_optimum_for_many_samples(objective, variance, num_targets):
    """Variances add: v = 1 of the data, σ² of the label, β² mean_k σ_k² of NCE+ (v + 0.225).

    The expected gradient of the exact likelihood is ½ (E y² - 1/a), zero at a = 1/variance; that of
    NCE is smaller beside the optimum.
    """
    data = standardized(num_targets)
    gradient, error = mean_and_error(objective, data, 1 / variance)
    assert gradient == pytest.approx(0, abs=5 * error + 0.003)
    assert error < 0.003, "a test without power"
    beside, _ = mean_and_error(objective, data, 1 / (0.75 * variance), repeats=2)
    assert beside > 0.03


@pytest.mark.parametrize("num_noise", [1, 4])
def test_exchangeable_noise_is_unbiased_for_any_number_of_samples(num_noise):
    """The same centred noise is biased in the published form (-0.06 for one sample)."""
    noise = GaussianMixtureNoise([1.5], dim=1)
    data = normal(200_000, 1)
    objective = NCEObjective(noise, num_noise, exchangeable=True)
    assert gradient_in_a(objective, data, 1.0, seeded(1)) == pytest.approx(0, abs=0.006)
    assert gradient_in_a(objective, data, 0.8, seeded(1)) < -0.02
    assert gradient_in_a(objective, data, 1.25, seeded(1)) > 0.02


def test_exchangeable_noise_recovers_two_modes():
    """p = ½ N(-1, 0.3²) + ½ N(1, 0.3²), one noise sample: the true f is where the gradient is 0."""
    sign = 2 * torch.randint(2, (100_000, 1), generator=seeded()) - 1
    data = sign + 0.3 * normal(100_000, 1)
    distance, scale = leaf(1.0), leaf(1.0)

    def f(y):
        modes = torch.stack([y.squeeze(-1) - distance, y.squeeze(-1) + distance])
        return (-0.5 * (modes / (0.3 * scale)).square()).logsumexp(0) - scale.log()

    objective = NCEObjective(GaussianMixtureNoise([1.0], dim=1), 1, exchangeable=True)
    loss = objective(f, data, generator=seeded(1))["loss"]
    gradients = torch.autograd.grad(loss, (distance, scale))
    assert all(g.abs() < 0.02 for g in gradients)
