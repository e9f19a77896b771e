"""Every implementation in ``ebm_mmdet.energy`` against the contracts it fulfils."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from ebm_mmdet.energy import (
    Density,
    DSMObjective,
    GaussianMixtureNoise,
    KLDISObjective,
    LogDensityFn,
    MCMCObjective,
    MixtureDensity,
    MixtureDensityHead,
    MLISObjective,
    NCEObjective,
    Objective,
    Proposal,
    ProposalLogDensityFn,
    ProposalObjective,
    RefinementResult,
    Refiner,
    ScoreMatchingObjective,
    SelectableLogDensityFn,
    evaluate_only,
    gradient_ascent,
    prior_step_size,
    with_gaussian_prior,
)
from tests.ebm_mmdet.energy.contract_checks import (
    check_density,
    check_log_density_fn,
    check_objective,
    check_proposal,
    check_refiner,
    check_select,
    check_threads,
    copies,
    seeded,
)

DIM = 3

# The annotations are the test: a type checker accepts each entry only if it fulfils the protocol.
DENSITIES: dict[str, Density] = {
    "mixture": GaussianMixtureNoise((0.1, 0.3), dim=DIM),
    "shared": GaussianMixtureNoise((0.1, 0.3), dim=DIM, shared=True),
    "antithetic": GaussianMixtureNoise((0.1, 0.3), dim=DIM, antithetic=True),
    "scaled": GaussianMixtureNoise([[0.1, 0.2, 0.4]]).scaled(0.5),
}
NOISE = DENSITIES["mixture"]
OBJECTIVES: dict[str, Objective] = {
    "nce": NCEObjective(NOISE, 15),
    "nce_plus": NCEObjective(NOISE, 15, beta=0.1),
    "nce_exchangeable": NCEObjective(NOISE, 15, exchangeable=True),
    "nce_shared": NCEObjective(DENSITIES["shared"], 15),
    "ml_is": MLISObjective(NOISE, 15),
    "kld_is": KLDISObjective(NOISE, 16, label_sigma=0.1),
    "kld_is_self": KLDISObjective(NOISE, 16, [0.1, 0.1, 0.2], self_normalize=True),
    "kld_is_shared": KLDISObjective(DENSITIES["shared"], 16),
    "mcmc": MCMCObjective([0.1, 0.1, 0.2], 2, 8),
    "mcmc_penalised": MCMCObjective(0.1, 2, 8, grad_clip=0.5, magnitude_weight=0.1),
    "sm": ScoreMatchingObjective(),
    "sm_hutchinson": ScoreMatchingObjective("hutchinson", probes=2),
    "dsm": DSMObjective(0.2, 16),
    "dsm_scaled": DSMObjective((0.1, 0.1, 0.2), 16, scale_by_sigma=True),
    "proposal_nce": ProposalObjective(15, nll_weight=0.3),
    "proposal_ml_is": ProposalObjective(15, form="ml-is"),
}
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


class Network(torch.nn.Module):
    """f and a proposal on features of the targets, as a head has them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.f = torch.nn.Sequential(
            torch.nn.Linear(4 + DIM, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
        )
        self.q = MixtureDensityHead(4, DIM, 2)


@dataclasses.dataclass
class Bound:
    """The network, bound to the features (N, 4) of its targets."""

    network: Network
    x: Tensor

    def __call__(self, y: Tensor) -> Tensor:
        x = self.x[:, None].expand(-1, y.shape[1], -1)
        return self.network.f(torch.cat([x, y], -1)).squeeze(-1) - y.square().sum(-1)

    def select(self, index: Tensor) -> LogDensityFn:
        return Bound(self.network, self.x[index])

    def proposal(self) -> Proposal:
        return self.network.q(self.x)


def bound(n: int, network: Network | None = None) -> Bound:
    return Bound(network or Network(), torch.randn(n, 4, generator=seeded(1)))


def points(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, DIM, generator=seeded(seed))


def posterior(n: int, shape: str) -> LogDensityFn:
    std = {
        "(D,)": torch.tensor([0.5, 1.0, 2.0]),
        "(N, D)": 0.5 + torch.rand(n, DIM, generator=seeded(3)),
        "(N, D, D)": torch.eye(DIM).expand(n, -1, -1) + points(n, DIM, seed=4).tril(-1),
    }[shape]
    mean = torch.zeros(DIM) if shape == "(D,)" else points(n, seed=5)
    return with_gaussian_prior(bound(n), mean, std, temperature=0.5)


@pytest.mark.parametrize("shape", ["(D,)", "(N, D)", "(N, D, D)"])
def test_log_density_with_a_prior(shape):
    fn, y = posterior(5, shape), points(5, 4)
    check_log_density_fn(fn, y)
    assert isinstance(fn, SelectableLogDensityFn)
    check_select(fn, y)


def test_a_prior_offers_select_only_if_f_does():
    fn = with_gaussian_prior(lambda y: -y.square().sum(-1), torch.zeros(DIM), torch.ones(DIM))
    assert not isinstance(fn, SelectableLogDensityFn)


@pytest.mark.parametrize("name", DENSITIES)
def test_density(name):
    check_density(DENSITIES[name], DIM)


@pytest.mark.parametrize("name", DENSITIES)
def test_density_can_be_copied_and_pickled(name):
    noise = DENSITIES[name]
    expected = noise.sample(3, 5, seeded())
    for copied in copies(noise):
        assert repr(copied) == repr(noise)
        torch.testing.assert_close(copied.sample(3, 5, seeded()), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", DENSITIES)
def test_density_keeps_nothing_of_a_call(name):
    check_threads(lambda i: DENSITIES[name].sample(1 + i % 5, i % 7, seeded(i)))


def test_proposal_keeps_nothing_of_a_call():
    network = Network()

    def call(i: int) -> list[Tensor]:
        proposal = bound(1 + i % 5, network).proposal()
        y = proposal.draw(4, seeded(i))
        log_q = proposal.log_prob(y)
        gradients = torch.autograd.grad(log_q.sum(), list(network.q.parameters()))
        return [y, log_q.detach(), *gradients]

    check_threads(call)


def test_proposal_of_parameters():
    parameters = [torch.zeros(4, 2), points(4, 2), torch.zeros(4, 2, DIM)]
    parameters = [p.requires_grad_() for p in parameters]
    log_weights, means, log_sigmas = parameters
    density = MixtureDensity(log_weights.log_softmax(1), means, log_sigmas)
    check_proposal(density, 4, DIM, parameters)


def test_proposal_of_a_head():
    fn = bound(4)
    check_proposal(fn.proposal(), 4, DIM, list(fn.network.q.parameters()))


@every_objective
def test_objective(name):
    network = Network()
    proposal = name.startswith("proposal")
    parameters = network if proposal else network.f
    fn, empty = bound(6, network), bound(0, network)
    check_objective(OBJECTIVES[name], fn, points(6), empty, list(parameters.parameters()))


def test_objectives_are_interchangeable():
    """The same call for all of them, by position and by name."""

    def train(
        objective: Objective, fn: LogDensityFn, targets: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        return objective(fn, targets, weight=weight, avg_factor=2.0, generator=seeded())

    fn, targets, weight = bound(3), points(3), torch.ones(3)
    for objective in OBJECTIVES.values():
        by_position = objective(fn, targets, weight, 2.0, seeded())
        by_name = train(objective, fn, targets, weight)
        torch.testing.assert_close(by_name, by_position, rtol=0, atol=0)


@every_objective
def test_objective_is_frozen_and_says_what_it_is(name):
    objective: Any = OBJECTIVES[name]
    names = [field.name for field in dataclasses.fields(objective) if field.init]
    assert names
    for field in names:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(objective, field, 1)
        assert f"{field}=" in repr(objective)
    assert repr(objective).startswith(f"{type(objective).__name__}(")
    assert "object at" not in repr(objective)
    assert dataclasses.replace(objective) == objective
    assert hash(dataclasses.replace(objective)) == hash(objective)


@every_objective
def test_objective_can_be_copied_and_pickled(name):
    objective, fn, targets = OBJECTIVES[name], bound(4), points(4)
    expected = objective(fn, targets, generator=seeded())
    for copied in copies(objective):
        assert repr(copied) == repr(objective)
        found = copied(fn, targets, generator=seeded())
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@every_objective
def test_objective_keeps_nothing_of_a_call(name):
    """Threads with targets of different number train at once, with gradients."""
    objective, network = OBJECTIVES[name], Network()

    def call(i: int) -> list[Tensor]:
        n = 1 + i % 5
        fn = bound(n, network)
        loss = objective(fn, points(n, seed=i), generator=seeded(i))["loss"]
        return [loss.detach(), *torch.autograd.grad(loss, list(network.f.parameters()))]

    check_threads(call)


def test_proposal_objective_asks_f_for_the_proposal():
    fn, targets = bound(4), points(4)
    assert isinstance(fn, ProposalLogDensityFn)
    asked = ProposalObjective(15)(fn, targets, generator=seeded())
    given = ProposalObjective(15)(fn, targets, generator=seeded(), proposal=fn.proposal())
    torch.testing.assert_close(asked, given, rtol=0, atol=0)
    with pytest.raises(TypeError, match=r"no method proposal\(\); use a head with a proposal"):
        ProposalObjective(15)(lambda y: -y.square().sum(-1), targets)


def climb(
    log_density_fn: LogDensityFn,
    y0: Tensor,
    *,
    covariance: Tensor | None = None,
    num_per_image: Sequence[int] | None = None,
) -> RefinementResult:
    return gradient_ascent(log_density_fn, y0, 0.3, 6)


def climb_with_prior(
    log_density_fn: LogDensityFn,
    y0: Tensor,
    *,
    covariance: Tensor | None = None,
    num_per_image: Sequence[int] | None = None,
) -> RefinementResult:
    std = torch.full((DIM,), 0.3)
    fn = with_gaussian_prior(log_density_fn, y0, std)
    result = gradient_ascent(fn, y0, prior_step_size(std), 6)
    return result._replace(log_density=evaluate_only(log_density_fn, result.y).log_density)


REFINERS: dict[str, Refiner] = {
    "evaluate_only": evaluate_only,
    "climb": climb,
    "climb_with_prior": climb_with_prior,
}


@pytest.mark.parametrize("name", REFINERS)
def test_refiner(name):
    # The prior has its maximum at y0, so whatever raises the posterior raises f.
    refiner = REFINERS[name]
    result = check_refiner(refiner, bound(6), points(6), climbs=True)
    assert (result.accepted > 0).any() == (name != "evaluate_only")
    stuck = check_refiner(refiner, lambda y: y.sum(-1) * torch.inf, points(6), climbs=False)
    assert (stuck.accepted == 0).all()
    check_refiner(refiner, bound(0), points(0))


@pytest.mark.parametrize("name", REFINERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_refined_points_have_at_least_float32(name, dtype):
    y0 = points(4).to(dtype)
    result = REFINERS[name](lambda y: -y.square().sum(-1), y0)
    expected = torch.promote_types(dtype, torch.float32)
    assert result.y.dtype == result.log_density.dtype == expected


@pytest.mark.parametrize("name", REFINERS)
def test_refiner_keeps_nothing_of_a_call(name):
    network = Network()

    def call(i: int) -> list[Tensor]:
        n = i % 5
        result = REFINERS[name](bound(n, network), points(n, seed=i))
        return [result.y, result.log_density, result.accepted]

    check_threads(call)


@pytest.mark.parametrize(
    "name", [name for name in OBJECTIVES if hasattr(OBJECTIVES[name], "noise")]
)
def test_a_noise_of_ones_own_may_pass_its_options_on(name):
    """What follows the generator is given by name, so ``**options`` is enough to wrap a density."""

    class Wrapper:
        def __init__(self, noise: Any) -> None:
            self.noise, self.shared = noise, noise.shared

        def sample(
            self,
            n: int,
            num_samples: int,
            generator: torch.Generator | None = None,
            **options: Any,
        ) -> tuple[Tensor, Tensor]:
            assert options.keys() == {"device", "dtype"}
            return self.noise.sample(n, num_samples, generator, **options)

        def log_prob(self, offsets: Tensor) -> Tensor:
            return self.noise.log_prob(offsets)

        def scaled(self, beta: float) -> Any:
            return Wrapper(self.noise.scaled(beta))

    objective: Any = OBJECTIVES[name]
    wrapped = dataclasses.replace(objective, noise=Wrapper(objective.noise))
    found, expected = (o(bound(4), points(4), generator=seeded()) for o in (wrapped, objective))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_nce_plus_explains_what_its_noise_has_to_offer():
    class Fixed:
        def sample(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
            return NOISE.sample(*arguments, **options)

        def log_prob(self, offsets: Tensor) -> Tensor:
            return NOISE.log_prob(offsets)

    NCEObjective(Fixed())
    with pytest.raises(ValueError, match=r"beta=0.1 needs a noise with a method scaled\(beta\)"):
        NCEObjective(Fixed(), beta=0.1)
