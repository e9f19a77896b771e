import math

import pytest
import scipy.stats
import torch

from ebm_mmdet.energy import GaussianMixtureNoise, MixtureDensity
from ebm_mmdet.regression.densities import (
    BoundedMixture,
    DefensiveProposal,
    WrappedMixture,
    WrappedNoise,
    on_circles,
)
from ebm_mmdet.regression.target_codec import TargetCodec
from tests.ebm_mmdet.energy.contract_checks import check_density, check_proposal, seeded
from tests.ebm_mmdet.regression.models import CODECS, codec


def mixture(dim, n=3, k=4, spread=1.0, seed=0):
    g = seeded(seed)
    weights = torch.randn(n, k, generator=g).log_softmax(1)
    means = spread * torch.randn(n, k, dim, generator=g)
    log_sigmas = -1 + 0.5 * torch.randn(n, k, dim, generator=g)
    return MixtureDensity(weights, means.requires_grad_(), log_sigmas.requires_grad_())


def integral(log_prob, c, n, points=400):
    """∫_support exp log_prob, by the midpoint rule in each coordinate."""
    axes = []
    for low, high in zip(c.low, c.high):
        axes.append(low + (torch.arange(points) + 0.5) / points * (high - low))
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)
    log_p = log_prob(grid.expand(n, -1, -1))
    return (log_p.double().logsumexp(1) + c.log_volume - math.log(len(grid))).exp()


@pytest.mark.parametrize("labels", ["count", "angle", "mixed"])
def test_bounded_density_has_its_whole_mass_in_the_support(labels):
    c = codec(labels)
    q = BoundedMixture(mixture(c.dim, spread=2.0), c)
    with torch.no_grad():
        torch.testing.assert_close(
            integral(q.log_prob, c, 3), torch.ones(3).double(), rtol=2e-3, atol=0
        )


def test_truncated_gaussian_against_scipy():
    c = TargetCodec([(-1.0, 2.0)], mean=[0.0], std=[1.0])
    for mean, sigma in ((0.3, 0.5), (5.0, 0.4), (-9.0, 0.3), (0.0, 20.0)):
        q = BoundedMixture(
            MixtureDensity(
                torch.zeros(1, 1),
                torch.full((1, 1, 1), mean),
                torch.full((1, 1, 1), sigma).log(),
            ),
            c,
        )
        reference = scipy.stats.truncnorm((-1 - mean) / sigma, (2 - mean) / sigma, mean, sigma)
        y = torch.linspace(-1, 2, 31)
        torch.testing.assert_close(
            q.log_prob(y.view(1, -1, 1))[0].double(),
            torch.from_numpy(reference.logpdf(y.double().numpy())),
            rtol=2e-3,
            atol=2e-3,
        )
        draws = q.draw(4000, seeded())[0, :, 0]
        assert scipy.stats.kstest(draws.numpy(), reference.cdf).pvalue > 1e-3
    outside = q.log_prob(torch.tensor([[[-1.01], [2.01], [math.nan]]]))
    assert torch.equal(outside, torch.full((1, 3), -torch.inf))


def test_wrapped_gaussian_is_periodic_and_against_scipy():
    c = codec("angle")
    for mean, sigma in ((3.0, 0.4), (-3.1, 1.5), (9.0, 3.0)):
        q = WrappedMixture(
            MixtureDensity(
                torch.zeros(1, 1),
                torch.full((1, 1, 1), mean),
                torch.full((1, 1, 1), sigma).log(),
            ),
            c,
        )
        z = torch.linspace(-math.pi, math.pi, 33)
        laps = 2 * math.pi * torch.arange(-20, 21).double()
        expected = torch.distributions.Normal(mean, sigma).log_prob(z.double()[:, None] + laps)
        log_p = q.log_prob(z.view(1, -1, 1))[0]
        torch.testing.assert_close(log_p.double(), expected.logsumexp(1), rtol=1e-4, atol=1e-4)
        turned = q.log_prob(z.view(1, -1, 1) + 6 * math.pi)[0]
        torch.testing.assert_close(turned, log_p, rtol=1e-3, atol=1e-3)
        draws = q.draw(100, seeded())
        assert (draws.abs() <= math.pi + 1e-6).all()


def test_linear_coordinates_are_not_wrapped():
    q = mixture(1)
    assert on_circles(q, codec("count")) is q
    assert isinstance(on_circles(q, codec("angle")), WrappedMixture)


@pytest.mark.parametrize("labels", ["angle", "mixed"])
def test_wrapped_mixture_is_a_proposal(labels):
    m = mixture(codec(labels).dim)
    check_proposal(WrappedMixture(m, codec(labels)), 3, m.means.shape[2], [m.means, m.log_sigmas])


@pytest.mark.parametrize("labels", CODECS)
def test_bounded_mixture_is_a_proposal(labels):
    m = mixture(codec(labels).dim)
    q = BoundedMixture(m, codec(labels))
    check_proposal(q, 3, m.means.shape[2], [m.means, m.log_sigmas])
    z = q.draw(50, seeded())
    assert q.codec.contains(z).all()
    picked = q.select(torch.tensor([2, 0]))
    assert torch.equal(picked.log_prob(z[[2, 0]]), q.log_prob(z)[[2, 0]])
    # A sample depends on its image and the seed only.
    assert torch.equal(picked.draw(50, seeded()), z[[2, 0]])


@pytest.mark.parametrize("labels", ["angle", "mixed", "pose"])
def test_wrapped_noise_is_a_density(labels):
    c = codec(labels)
    noise = WrappedNoise(GaussianMixtureNoise((0.3, 1.5), dim=c.dim), c)
    check_density(noise, c.dim)
    assert isinstance(noise.scaled(0.5), WrappedNoise)
    offsets, _ = noise.sample(2, 500, seeded())
    assert (offsets[..., c.periodic_mask].abs() <= math.pi + 1e-6).all()


def test_noise_on_a_circle_integrates_to_one():
    c = codec("angle")
    noise = WrappedNoise(GaussianMixtureNoise((0.3, 1.5), dim=1), c)
    total = integral(lambda z: noise.log_prob(z), c, 1)
    torch.testing.assert_close(total, torch.ones(1).double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_defensive_proposal_is_the_mixture_it_says(share):
    """E_{q'}[1/q'] = volume: the samples and the density belong together."""
    c = codec("mixed")
    q = DefensiveProposal(BoundedMixture(mixture(2), c), c, share)
    z, log_q = q.sample(2000, seeded())
    assert z.shape == (3, 2000, 2)
    assert c.contains(z).all()
    assert not log_q.requires_grad
    if share:
        ratios = (-log_q.double() - c.log_volume).exp()
        error = ratios.std(1) / 2000**0.5
        assert ((ratios.mean(1) - 1).abs() <= 4 * error + 1e-6).all()
        # Bounded weights: q' is at least ε U.
        assert (log_q >= math.log(share) - c.log_volume - 1e-4).all()
    with pytest.raises(ValueError, match="share"):
        DefensiveProposal(BoundedMixture(mixture(2), c), c, 1.5)


def test_a_mixture_far_outside_still_gives_finite_samples_and_gradients():
    c = codec("count")
    means = torch.full((1, 1, 1), 300.0, requires_grad=True)
    q = BoundedMixture(MixtureDensity(torch.zeros(1, 1), means, torch.full((1, 1, 1), -5.0)), c)
    z = q.draw(10, seeded())
    assert c.contains(z).all()
    assert not q.log_prob(z).isnan().any()
