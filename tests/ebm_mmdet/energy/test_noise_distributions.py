"""The Gaussian mixture against its constants, torch's own mixture, quadrature and Monte Carlo."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from ebm_mmdet.energy import GaussianMixtureNoise

NCE_SIGMAS = (0.075, 0.15, 0.3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("sigmas", "density"), [(NCE_SIGMAS, 284.5749), ((0.0375, 0.075, 0.15), 4553.1989)]
)
def test_density_at_zero_for_boxes(sigmas, density):
    log_q = GaussianMixtureNoise(sigmas, dim=4).log_prob(torch.zeros(4, dtype=torch.float64))
    assert log_q.item() == pytest.approx(math.log(density), abs=1e-6)


@pytest.mark.parametrize("dim", [1, 4, 7])
def test_matches_torch_mixture(dim):
    sigmas = torch.rand(3, dim, generator=seeded(), dtype=torch.float64) + 0.05
    offsets = torch.randn(50, 6, dim, generator=seeded(1), dtype=torch.float64)
    expected = MixtureSameFamily(
        Categorical(torch.ones(3, dtype=torch.float64)),
        Independent(Normal(torch.zeros_like(sigmas), sigmas), 1),
    ).log_prob(offsets)
    torch.testing.assert_close(
        GaussianMixtureNoise(sigmas).log_prob(offsets), expected, rtol=0, atol=1e-10
    )


def test_single_component_is_a_gaussian():
    offsets = torch.linspace(-1, 1, 21, dtype=torch.float64)[:, None]
    sigma = torch.tensor(0.3, dtype=torch.float64)
    expected = Normal(torch.zeros_like(sigma), sigma).log_prob(offsets[:, 0])
    actual = GaussianMixtureNoise([0.3], dim=1).log_prob(offsets)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_integrates_to_one_in_1d():
    x = torch.linspace(-4, 4, 20001, dtype=torch.float64)
    density = GaussianMixtureNoise(NCE_SIGMAS, dim=1).log_prob(x[:, None]).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-9)


def test_integrates_to_one_in_2d():
    x = torch.linspace(-2.5, 2.5, 601, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(x, x, indexing="ij"), dim=-1)
    density = GaussianMixtureNoise([[0.1, 0.2], [0.4, 0.3]]).log_prob(grid).exp()
    total = torch.trapezoid(torch.trapezoid(density, x), x)
    assert total.item() == pytest.approx(1, abs=1e-9)


def test_log_density_survives_where_the_density_underflows():
    offsets = torch.full((1, 7), 10.0)
    log_q = GaussianMixtureNoise(NCE_SIGMAS, dim=7).log_prob(offsets)
    assert log_q.exp() == 0
    expected = -0.5 * 7 * (10 / 0.3) ** 2 - 7 * math.log(0.3 * math.sqrt(2 * math.pi)) - math.log(3)
    assert log_q.item() == pytest.approx(expected, rel=1e-6)


def test_samples_follow_the_density():
    """E_q[p/q] = 1 for a normalised p that q covers: ties the sampler to its log-density."""
    noise = GaussianMixtureNoise(NCE_SIGMAS, dim=2)
    offsets, log_q = noise.sample(1, 100_000, seeded(), dtype=torch.float64)
    for sigma in (0.06, 0.2):
        log_p = Normal(0.0, sigma).log_prob(offsets).sum(-1)
        ratio = (log_p - log_q).exp()
        error = ratio.std().item() / math.sqrt(ratio.numel())
        assert ratio.mean().item() == pytest.approx(1, abs=5 * error)
        assert error < 0.02


def test_coordinates_of_a_sample_share_the_component():
    """E[δ1² δ2²] is mean σ⁴ for a shared component, (mean σ²)² for independent ones."""
    sigmas = torch.tensor(NCE_SIGMAS, dtype=torch.float64)
    offsets, _ = GaussianMixtureNoise(NCE_SIGMAS, dim=2).sample(
        100, 4000, seeded(), dtype=torch.float64
    )
    assert offsets.mean().abs() < 5 * offsets.std() / math.sqrt(offsets.numel())
    product = offsets.square().prod(-1)
    error = product.std() / math.sqrt(product.numel())
    assert (product.mean() - sigmas.pow(4).mean()).abs() < 5 * error
    assert sigmas.pow(4).mean() - sigmas.square().mean().square() > 20 * error


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "num_samples"), [(3, 5), (0, 5), (3, 0)])
def test_sample_contract(n, num_samples, dtype):
    noise = GaussianMixtureNoise(NCE_SIGMAS, dim=4)
    offsets, log_q = noise.sample(n, num_samples, seeded(), dtype=dtype)
    assert offsets.shape == (n, num_samples, 4)
    assert offsets.dtype == dtype
    assert not offsets.requires_grad
    assert torch.equal(log_q, noise.log_prob(offsets))
    again, _ = noise.sample(n, num_samples, seeded(), dtype=dtype)
    assert torch.equal(offsets, again)


def test_half_precision_offsets_are_scored_in_float32():
    noise = GaussianMixtureNoise(NCE_SIGMAS, dim=4)
    offsets = torch.full((2, 4), 0.125, dtype=torch.bfloat16)
    assert torch.equal(noise.log_prob(offsets), noise.log_prob(offsets.float()))


def test_scaled_multiplies_standard_deviations():
    noise = GaussianMixtureNoise(NCE_SIGMAS, dim=4)
    offsets, log_q = noise.sample(2, 9, seeded(), dtype=torch.float64)
    scaled, log_scaled = noise.scaled(0.1).sample(2, 9, seeded(), dtype=torch.float64)
    torch.testing.assert_close(scaled, 0.1 * offsets)
    torch.testing.assert_close(log_scaled, log_q - 4 * math.log(0.1))


@pytest.mark.parametrize("antithetic", [False, True])
def test_shared_offsets_are_one_set_for_all_targets(antithetic):
    options = {"dim": 4, "antithetic": antithetic}
    offsets, log_q = GaussianMixtureNoise(NCE_SIGMAS, shared=True, **options).sample(5, 9, seeded())
    alone, log_alone = GaussianMixtureNoise(NCE_SIGMAS, **options).sample(1, 9, seeded())
    assert offsets.shape == (5, 9, 4)
    assert log_q.shape == (5, 9)
    assert all(torch.equal(row, alone[0]) for row in offsets)
    assert all(torch.equal(row, log_alone[0]) for row in log_q)
    empty, _ = GaussianMixtureNoise(NCE_SIGMAS, shared=True, **options).sample(0, 9, seeded())
    assert empty.shape == (0, 9, 4)


@pytest.mark.parametrize("num_samples", [0, 1, 2, 9, 128])
def test_antithetic_offsets_come_in_pairs(num_samples):
    noise = GaussianMixtureNoise(NCE_SIGMAS, dim=4, antithetic=True)
    offsets, log_q = noise.sample(3, num_samples, seeded())
    drawn, pairs = (num_samples + 1) // 2, num_samples // 2
    assert offsets.shape == (3, num_samples, 4)
    assert torch.equal(offsets[:, drawn:], -offsets[:, :pairs])
    assert torch.equal(log_q, noise.log_prob(offsets))
    if num_samples % 2 == 0:
        torch.testing.assert_close(offsets.sum(1), torch.zeros(3, 4), rtol=0, atol=1e-5)


def test_antithetic_offsets_follow_the_density():
    noise = GaussianMixtureNoise(NCE_SIGMAS, dim=2, antithetic=True)
    offsets, log_q = noise.sample(1, 100_000, seeded(), dtype=torch.float64)
    ratio = (Normal(0.05, 0.2).log_prob(offsets).sum(-1) - log_q).exp()
    assert ratio.mean().item() == pytest.approx(1, abs=5 * ratio.std().item() / math.sqrt(1e5))


def test_scaled_noise_is_independent():
    """The positive of NCE+ must differ between targets, also where the noise is shared."""
    noise = GaussianMixtureNoise(NCE_SIGMAS, dim=4, shared=True, antithetic=True)
    scaled = noise.scaled(0.1)
    assert not scaled.shared
    assert not scaled.antithetic
    assert repr(noise).endswith("shared=True, antithetic=True)")
    assert repr(scaled) == repr(GaussianMixtureNoise(NCE_SIGMAS, dim=4).scaled(0.1))


@pytest.mark.parametrize(
    ("sigmas", "dim"),
    [
        ((0.1, 0.2), None),
        ([], 4),
        ([[0.1, 0.2]], 3),
        ((0.1, 0.0), 4),
        ((0.1, -0.2), 4),
        ((math.nan,), 4),
        ((math.inf,), 4),
        ([[[0.1]]], None),
    ],
)
def test_refuses_what_is_no_mixture(sigmas, dim):
    with pytest.raises(ValueError, match="sigma"):
        GaussianMixtureNoise(sigmas, dim=dim)
