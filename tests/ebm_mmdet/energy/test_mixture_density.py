"""The mixture density network: its distribution against torch's, its head against its docstring."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from ebm_mmdet.energy import MixtureDensity, MixtureDensityHead, proposals


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def some_density(n=3, k=4, dim=2, seed=0):
    return MixtureDensity(
        normal(n, k, seed=seed).log_softmax(1),
        normal(n, k, dim, seed=seed + 1),
        0.5 * normal(n, k, dim, seed=seed + 2),
    )


def reference(density, dtype=torch.float64):
    return MixtureSameFamily(
        Categorical(logits=density.log_weights.detach()),
        Independent(Normal(density.means.detach(), density.log_sigmas.detach().exp()), 1),
    )


@pytest.mark.parametrize("dim", [1, 4, 7])
@pytest.mark.parametrize("k", [1, 4])
def test_log_density_matches_torch(dim, k):
    density, y = some_density(3, k, dim), 2 * normal(3, 50, dim, seed=9)
    expected = reference(density).log_prob(y.movedim(1, 0)).movedim(0, 1)
    torch.testing.assert_close(density.log_prob(y), expected, rtol=0, atol=1e-10)


def test_single_component_is_a_gaussian():
    density, y = some_density(2, 1, 1), normal(2, 9, 1)
    expected = Normal(density.means[:, 0], density.log_sigmas[:, 0].exp()).log_prob(y.squeeze(-1))
    torch.testing.assert_close(density.log_prob(y), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(density.mean, density.means[:, 0])


def test_integrates_to_one():
    x = torch.linspace(-15, 15, 20001, dtype=torch.float64)
    total = torch.trapezoid(some_density(3, 4, 1).log_prob(x.expand(3, -1)[..., None]).exp(), x)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-9)


def test_mean():
    density = some_density()
    torch.testing.assert_close(density.mean, reference(density).mean)


def test_log_density_survives_where_the_density_underflows():
    density = some_density(2, 3, 7)
    log_q = density.log_prob(torch.full((2, 1, 7), 1e3, dtype=torch.float64))
    assert log_q.isfinite().all()
    assert (log_q.exp() == 0).all()


def test_blocks_of_targets_change_nothing(monkeypatch):
    density, y = some_density(7), normal(7, 5, 2, seed=9).requires_grad_()
    parameters = [density.log_weights, density.means, density.log_sigmas, y]
    for parameter in parameters:
        parameter.requires_grad_()
    results = []
    for limit in (2**21, 5 * 4 * 3, 1):
        monkeypatch.setattr(proposals, "_MAX_ELEMENTS", limit)
        log_q = density.log_prob(y)
        results.append((log_q, *torch.autograd.grad(log_q.square().sum(), parameters)))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_log_density_differentiates_in_its_parameters():
    density, y = some_density(2, 3, 2), normal(2, 4, 2, seed=9)
    parameters = [
        p.requires_grad_() for p in (density.log_weights, density.means, density.log_sigmas)
    ]
    assert torch.autograd.gradcheck(lambda *p: MixtureDensity(*p).log_prob(y), parameters)


@pytest.mark.parametrize("dim", [1, 3])
def test_fast_gradients_are_those_of_the_definition(dim):
    """Without a gradient to y, log q has its own backward pass."""
    density, y = some_density(4, 3, dim), 3 * normal(4, 6, dim, seed=9)
    y[0, 0] = 1e200  # where the density is zero even in logarithms
    parameters = [
        p.requires_grad_() for p in (density.log_weights, density.means, density.log_sigmas)
    ]
    results = []
    for needs_gradient in (False, True):
        log_q = MixtureDensity(*parameters).log_prob(y.requires_grad_(needs_gradient))
        assert log_q[0, 0] == -math.inf
        finite = log_q.flatten()[1:].sum()
        results.append((log_q.detach(), *torch.autograd.grad(finite, parameters)))
    fast, plain = results
    torch.testing.assert_close(fast[0], plain[0])
    for a, b in zip(fast[1:], plain[1:]):
        torch.testing.assert_close(a[1:], b[1:])
        assert a.isfinite().all()


def test_samples_follow_the_density():
    """Moments of each target, and E_q[p/q] = 1 for another mixture p: ties draw to log_prob."""
    density = some_density(3, 4, 2)
    y, log_q = density.sample(100_000, seeded())
    torch.testing.assert_close(log_q, density.log_prob(y))
    variance = reference(density).variance
    error = (variance / 1e5).sqrt()
    assert ((y.mean(1) - density.mean).abs() < 5 * error).all()
    assert ((y.var(1) - variance).abs() < 0.05 * variance).all()
    narrow = MixtureDensity(density.log_weights, density.means, density.log_sigmas - 0.3)
    ratio = (narrow.log_prob(y) - log_q).exp()
    standard_error = ratio.std(1) / math.sqrt(1e5)
    assert ((ratio.mean(1) - 1).abs() < 5 * standard_error).all()
    assert (standard_error < 0.01).all()


def test_components_are_drawn_with_their_weights():
    weights = torch.tensor([[0.1, 0.0, 0.6, 0.3], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    means = torch.arange(4, dtype=torch.float64).view(1, 4, 1).expand(2, 4, 1)
    density = MixtureDensity(weights.log(), means, torch.full_like(means, -7.0))
    y = density.draw(100_000, seeded()).squeeze(-1)
    component = y.round().long()
    shares = torch.stack([(component == k).double().mean(1) for k in range(4)], dim=1)
    assert ((shares - weights).abs() <= 5 * (weights * (1 - weights) / 1e5).sqrt()).all()


def test_coordinates_of_a_sample_share_the_component():
    means = torch.tensor([[[-1.0, -1.0], [1.0, 1.0]]])
    density = MixtureDensity(torch.full((1, 2), math.log(0.5)), means, torch.full((1, 2, 2), -3.0))
    y = density.draw(1000, seeded())
    assert (y.prod(-1) > 0).all()


def test_samples_carry_no_gradient():
    parameters = [
        p.requires_grad_() for p in vars(some_density()).values() if isinstance(p, torch.Tensor)
    ]
    density = MixtureDensity(*parameters)
    y, log_q = density.sample(5, seeded())
    assert not y.requires_grad
    assert not log_q.requires_grad
    assert not density.draw(5, seeded()).requires_grad
    assert torch.equal(density.draw(5, seeded()), y)
    assert density.log_prob(y).requires_grad
    assert not hasattr(density, "rsample")


def test_select_narrows_to_targets():
    density, y = some_density(4), normal(4, 6, 2)
    index = torch.tensor([2, 0])
    torch.testing.assert_close(density.select(index).log_prob(y[index]), density.log_prob(y)[index])
    mask = torch.tensor([True, False, False, True])
    torch.testing.assert_close(density.select(mask).mean, density.mean[mask])
    assert len(density.select(mask)) == 2


def test_density_without_targets_or_samples():
    empty = some_density(0)
    y, log_q = empty.sample(5, seeded())
    assert (y.shape, log_q.shape, empty.mean.shape) == ((0, 5, 2), (0, 5), (0, 2))
    assert some_density().sample(0)[0].shape == (3, 0, 2)


def test_density_refuses_other_shapes():
    density = some_density()
    with pytest.raises(ValueError, match=r"must be \(N, K\), \(N, K, D\)"):
        MixtureDensity(density.log_weights[:, 1:], density.means, density.log_sigmas)
    for bad in (normal(3, 2), normal(2, 5, 2), normal(3, 5, 4)):
        with pytest.raises(ValueError, match="N=3 and D=2"):
            density.log_prob(bad)


def make_head(**arguments):
    torch.manual_seed(0)
    return MixtureDensityHead(**{"in_features": 6, "dim": 2, "num_components": 4, **arguments})


@pytest.mark.parametrize(("k", "count"), [(1, 363), (4, 462), (16, 858)])
def test_has_the_papers_number_of_parameters(k, count):
    head = make_head(in_features=10, dim=1, num_components=k)
    assert sum(p.numel() for p in head.parameters()) == count


def test_head_predicts_a_density_per_target():
    head = make_head(hidden=5)
    density = head(torch.randn(3, 6))
    assert density.log_weights.shape == (3, 4)
    assert density.means.shape == density.log_sigmas.shape == (3, 4, 2)
    torch.testing.assert_close(density.log_weights.exp().sum(1), torch.ones(3))
    assert head(torch.randn(0, 6)).draw(7).shape == (0, 7, 2)


def test_standardisation_is_a_change_of_coordinates():
    """log q(y) = log q_t((y - mean) / std) - Σ log std, with the same weights."""
    mean, std = [40.0, -3.0], [20.0, 0.5]
    plain, scaled = make_head(), make_head(target_mean=mean, target_std=std)
    x, t = torch.randn(3, 6), torch.randn(3, 50, 2)
    y = torch.tensor(mean) + torch.tensor(std) * t
    expected = plain(x).log_prob(t) - torch.tensor(std).log().sum()
    torch.testing.assert_close(scaled(x).log_prob(y), expected, rtol=1e-4, atol=1e-4)


def test_starts_usable_for_targets_in_the_tens():
    """Raw ages 1..100: the released head's first log q is below -400."""
    head = make_head(dim=1, target_mean=33.0, target_std=20.0)
    log_q = head(torch.randn(1, 6)).log_prob(torch.arange(1.0, 101).view(1, -1, 1))
    assert (log_q > -15).all()


def test_initial_means_cover_the_range_of_every_coordinate():
    head = make_head(dim=3, num_components=8)
    means = head(torch.zeros(1, 6)).means[0]
    spread = means.max(0).values - means.min(0).values
    assert (spread > 2).all()
    bias = head.means[-1].bias.detach().view(8, 3)
    quantiles = Normal(0.0, 1.0).icdf((torch.arange(8.0) + 0.5) / 8)
    for d in range(3):
        torch.testing.assert_close(bias[:, d].sort().values, quantiles, rtol=0, atol=1e-5)
    assert not torch.equal(bias[:, 0], bias[:, 1]), "not all on one diagonal"


@pytest.mark.parametrize(("push", "limit"), [(-1e4, -7.0), (1e4, 7.0)])
def test_sigma_has_a_floor_and_a_ceiling(push, limit):
    head = make_head(target_std=3.0)
    with torch.no_grad():
        head.log_sigmas[-1].bias.fill_(push)
    density = head(torch.randn(2, 6))
    torch.testing.assert_close(density.log_sigmas, torch.full((2, 4, 2), limit + math.log(3)))
    assert density.log_prob(torch.zeros(2, 5, 2)).isfinite().all()


def test_scale_is_part_of_the_checkpoint():
    head = make_head(target_mean=2.0, target_std=[3.0, 4.0])
    other = make_head()
    other.load_state_dict(head.state_dict())
    assert other.target_mean.tolist() == [2.0, 2.0]
    assert other.target_std.tolist() == [3.0, 4.0]


def test_head_under_autocast_gives_float32():
    head = make_head()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        density = head(torch.randn(3, 6))
        y, log_q = density.sample(5, seeded())
    assert {t.dtype for t in (density.means, density.log_weights, y, log_q)} == {torch.float32}


def test_learns_a_conditional_density():
    """y | x ~ 10 (±x + 0.1 ξ): NLL near its entropy 2.1, where one Gaussian has above 4."""
    head = make_head(in_features=1, dim=1, hidden=32, num_components=2, target_std=15.0)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    generator = seeded()
    for _ in range(400):
        x = 1 + torch.rand(256, 1, generator=generator)
        sign = 2 * torch.randint(2, (256, 1), generator=generator) - 1
        y = 10 * (sign * x + 0.1 * torch.randn(256, 1, generator=generator))
        loss = -head(x).log_prob(y.unsqueeze(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    entropy = math.log(2) + 0.5 * math.log(2 * math.pi * math.e)
    assert entropy - 0.15 < loss.item() < entropy + 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_components": 0}, "num_components=0"),
        ({"hidden": 0}, "hidden=0"),
        ({"target_std": 0.0}, "must be finite"),
        ({"target_std": [1.0, math.inf]}, "must be finite"),
        ({"target_mean": [1.0, 2.0, 3.0]}, "one for each of 2 coordinates"),
        ({"log_sigma_range": (1.0, 1.0)}, "is empty"),
    ],
)
def test_head_refuses_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_head(**arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_of_any_precision_give_the_density_in_float32_or_better(dtype):
    """That of the rounded weights, for features of any precision."""
    torch.manual_seed(0)
    head = MixtureDensityHead(3, 2, 4, target_mean=[0.1, -0.2], target_std=[0.5, 2.0]).to(dtype)
    wide = MixtureDensityHead(3, 2, 4)
    wide.load_state_dict(head.state_dict())
    x = torch.randn(5, 3)
    expected = wide(x)
    for features in (x, x.to(dtype)):
        density = head(features)
        at_least = torch.promote_types(dtype, torch.float32)
        assert density.means.dtype == density.log_sigmas.dtype == at_least
        if features is x:
            for name in ("log_weights", "means", "log_sigmas"):
                found = getattr(density, name).float()
                torch.testing.assert_close(found, getattr(expected, name), rtol=1e-4, atol=1e-5)
