"""Properties that all objectives share: calls, shapes, invariances, reductions, modes."""

import dataclasses
import math

import pytest
import torch

from ebm_mmdet.energy import (
    DSMObjective,
    GaussianMixtureNoise,
    KLDISObjective,
    MCMCObjective,
    MLISObjective,
    NCEObjective,
    ScoreMatchingObjective,
)

NOISE = GaussianMixtureNoise((0.075, 0.15, 0.3), dim=4)
SHARED = GaussianMixtureNoise((0.075, 0.15, 0.3), dim=4, shared=True)
PAIRS = GaussianMixtureNoise((0.075, 0.15, 0.3), dim=4, antithetic=True)

OBJECTIVES = {
    "nce": NCEObjective(NOISE, 15),
    "nce_plus": NCEObjective(NOISE, 15, beta=0.1),
    "nce_exchangeable": NCEObjective(NOISE, 15, exchangeable=True),
    "nce_shared": NCEObjective(SHARED, 15, beta=0.1),
    "nce_antithetic": NCEObjective(PAIRS, 15),
    "ml_is": MLISObjective(NOISE, 15),
    "ml_is_shared": MLISObjective(SHARED, 15),
    "kld_is": KLDISObjective(NOISE, 16, label_sigma=0.1),
    "kld_is_shared": KLDISObjective(SHARED, 16, label_sigma=0.1),
    "kld_is_self": KLDISObjective(NOISE, 16, (0.1, 0.1, 0.2, 0.2), self_normalize=True),
    "mcmc": MCMCObjective(0.1, 3, 16),
    "mcmc_clipped": MCMCObjective((0.1, 0.1, 0.2, 0.2), 3, 16, grad_clip=0.5),
    "sm": ScoreMatchingObjective(),
    "sm_hutchinson": ScoreMatchingObjective("hutchinson", probes=2),
    "dsm": DSMObjective(0.2, 16),
    "dsm_scaled": DSMObjective((0.1, 0.1, 0.2, 0.2), 16, scale_by_sigma=True),
}
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(y):
    return torch.sin(3 * y).sum(-1) - 2 * y.square().sum(-1) + (y[..., 0] * y[..., 1])


class Recorder:
    def __init__(self, fn=smooth):
        self.fn, self.calls = fn, []

    def __call__(self, y):
        self.calls.append(y.detach())
        return self.fn(y)


def some_targets(n=6, dtype=torch.float64):
    return torch.randn(n, 4, generator=seeded(9), dtype=dtype)


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def run(name, fn=smooth, targets=None, **arguments):
    targets = some_targets() if targets is None else targets
    return OBJECTIVES[name](fn, targets, generator=seeded(), **arguments)


@every_objective
def test_calls_f_as_often_as_promised(name):
    f = Recorder()
    run(name, f)
    expected = [(6, 1, 4) if name.startswith("sm") else (6, 16, 4)]
    if name.startswith("mcmc"):  # the first step is common, the last call scores the target too
        expected = [(6, 1, 4), (6, 16, 4), (6, 16, 4), (6, 17, 4)]
    assert [tuple(y.shape) for y in f.calls] == expected


@every_objective
def test_result_is_a_loss_and_detached_scalars(name):
    net = network()
    result = run(name, lambda y: net(y).squeeze(-1), some_targets(dtype=torch.float32))
    assert all(value.shape == () and value.isfinite() for value in result.values())
    assert [key for key in result if "loss" in key] == ["loss"]
    assert len(result) > 2
    assert result.pop("loss").requires_grad
    assert not any(value.requires_grad for value in result.values())


@every_objective
def test_generator_determines_everything(name):
    first, again = (run(name)["loss"] for _ in range(2))
    assert torch.equal(first, again)
    other = OBJECTIVES[name](smooth, some_targets(), generator=seeded(1))["loss"]
    assert torch.equal(first, other) == (name == "sm")


@every_objective
def test_constants_and_translations_change_nothing(name):
    expected = run(name)["loss"]
    moved = run(name, lambda y: smooth(y - 5.0), some_targets() + 5.0)["loss"]
    torch.testing.assert_close(moved, expected, rtol=1e-8, atol=1e-8)
    offset = torch.linspace(-10, 12, 6, dtype=torch.float64)[:, None]
    raised = run(name, lambda y: smooth(y) + offset)["loss"]
    if name in ("kld_is", "kld_is_shared"):
        assert (raised - expected).abs() > 1e-3, "the published form is not invariant"
    else:
        torch.testing.assert_close(raised, expected, rtol=1e-8, atol=1e-8)


@every_objective
def test_weight_and_avg_factor_reach_the_loss(name):
    each = [run(name, weight=row, avg_factor=1.0)["loss"].item() for row in torch.eye(6)]
    assert run(name)["loss"].item() == pytest.approx(sum(each) / 6, rel=1e-5)
    weight = torch.tensor([2.0, 0, 0, 1, 0, 0])
    assert run(name, weight=weight, avg_factor=8.0)["loss"].item() == pytest.approx(
        (2 * each[0] + each[3]) / 8, rel=1e-5
    )


@every_objective
@pytest.mark.parametrize("avg_factor", [None, 0.0, 4.0])
def test_no_targets(name, avg_factor):
    net = network()
    result = run(name, lambda y: net(y).squeeze(-1), torch.zeros(0, 4), avg_factor=avg_factor)
    result["loss"].backward()
    assert {key: value.item() for key, value in result.items()} == dict.fromkeys(result, 0)
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in net.parameters())


@every_objective
def test_every_parameter_gets_a_gradient(name):
    """Even the last bias, which has no effect, because distributed training waits for it."""
    net = network()
    run(name, lambda y: net(y).squeeze(-1), some_targets(dtype=torch.float32))["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert (net[0].weight.grad != 0).any()
    if name not in ("kld_is", "kld_is_shared"):
        torch.testing.assert_close(net[2].bias.grad, torch.zeros(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if not name.startswith("mcmc")])
def test_gradient_is_that_of_the_loss(name):
    """Finite differences in one parameter, the random draws fixed; chains would move with it."""
    net = network().double()

    def f(y):
        return net(y).squeeze(-1)

    run(name, f)["loss"].backward()
    weight, step = net[0].weight, 1e-5
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[2, 1] += sign * step
        losses.append(run(name, f)["loss"].item())
        with torch.no_grad():
            weight[2, 1] -= sign * step
    slope = (losses[0] - losses[1]) / (2 * step)
    assert weight.grad[2, 1].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


@every_objective
def test_half_precision_targets_and_scores_give_a_float32_loss(name):
    net, seen = network(), []

    def f(y):
        seen.append(y.dtype)
        return net(y).squeeze(-1)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = run(name, f, some_targets().bfloat16())["loss"]
    assert set(seen) == {torch.float32}
    assert loss.dtype == torch.float32
    loss.backward()
    assert net[0].weight.grad.isfinite().all()


@every_objective
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_value_can_be_had_without_gradients(name, mode):
    expected = run(name)["loss"]
    with mode():
        value = run(name)["loss"]
    torch.testing.assert_close(value, expected, rtol=0, atol=0)


@every_objective
@pytest.mark.parametrize("dim", [1, 7])
def test_any_dimension(name, dim):
    objective, targets = OBJECTIVES[name], torch.zeros(3, dim)
    if hasattr(objective, "noise"):
        flags = {"shared": objective.noise.shared, "antithetic": objective.noise.antithetic}
        noise = GaussianMixtureNoise((0.1, 0.3), dim=dim, **flags)
        label = {"label_sigma": (0.2,) * dim} if name == "kld_is_self" else {}
        objective = dataclasses.replace(objective, noise=noise, **label)
    elif name == "mcmc_clipped":
        objective = MCMCObjective((0.1,) * dim, 2, 5, grad_clip=1.0)
    elif name == "dsm_scaled":
        objective = DSMObjective((0.1,) * dim, 5, scale_by_sigma=True)
    assert objective(lambda y: -y.square().sum(-1), targets)["loss"].isfinite()


@every_objective
def test_refuses_a_function_of_another_shape(name):
    with pytest.raises(ValueError, match="expected one value per point"):
        run(name, lambda y: y[..., :1])


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize(
    "name", [name for name in OBJECTIVES if hasattr(OBJECTIVES[name], "noise")]
)
def test_noise_of_another_dimension_than_the_targets_is_refused(name, dim):
    """With dim=1 the offsets would broadcast, and f would be trained on a diagonal."""
    noise = GaussianMixtureNoise((0.1, 0.3), dim=dim)
    label = {"label_sigma": 0.1} if name.startswith("kld_is") else {}
    objective = dataclasses.replace(OBJECTIVES[name], noise=noise, **label)
    with pytest.raises(ValueError, match=rf"noise of dim={dim} for targets of 4 .*noise\.dim=4"):
        objective(smooth, torch.zeros(3, 4), generator=seeded())


@pytest.mark.parametrize("noise", [NOISE, SHARED, PAIRS], ids=["each", "shared", "antithetic"])
def test_importance_objectives_from_their_definitions(noise):
    """Sums over the points at which f was really evaluated."""
    f, targets = Recorder(), some_targets()
    losses = [
        objective(f, targets, generator=seeded())["loss"]
        for objective in (MLISObjective(noise, 15), KLDISObjective(noise, 16, (0.1, 0.1, 0.2, 0.3)))
    ]
    ml, kld = f.calls
    assert torch.equal(ml[:, 0], targets)
    z = (smooth(ml) - noise.log_prob(ml - targets[:, None]))[:, 1:].exp().mean(1)
    torch.testing.assert_close(losses[0], (z.log() - smooth(targets)).mean())

    offsets = kld - targets[:, None]
    log_q = noise.log_prob(offsets)
    sigma = torch.tensor([0.1, 0.1, 0.2, 0.3], dtype=torch.float64)
    log_p = torch.distributions.Normal(torch.zeros_like(sigma), sigma).log_prob(offsets).sum(-1)
    z = (smooth(kld) - log_q).exp().mean(1)
    label = ((log_p - log_q).exp() * smooth(kld)).mean(1)
    torch.testing.assert_close(losses[1], (z.log() - label).mean())


@pytest.mark.parametrize("name", ["mcmc", "sm", "dsm"])
def test_a_function_without_gradient_in_y_is_explained(name):
    with pytest.raises(RuntimeError, match="without a gradient with respect to y"):
        run(name, lambda y: smooth(y.detach()))


@every_objective
def test_says_what_it_is(name):
    text = repr(OBJECTIVES[name])
    assert text.startswith(type(OBJECTIVES[name]).__name__ + "(")
    assert "object at" not in text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLISObjective(NOISE, 0), "num_noise=0"),
        (lambda: KLDISObjective(NOISE, 0), "num_samples=0"),
        (lambda: KLDISObjective(NOISE, 8, label_sigma=0.0), "label_sigma=0.0 must be positive"),
        (lambda: MCMCObjective(0.0), "step_size=0.0"),
        (lambda: MCMCObjective((0.1, -0.1)), "step_size="),
        (lambda: MCMCObjective([]), "step_size="),
        (lambda: MCMCObjective(0.1, 0), "num_steps=0"),
        (lambda: MCMCObjective(0.1, 3, 0), "num_samples=0"),
        (lambda: MCMCObjective(0.1, 3, 4, grad_clip=0.0), "grad_clip=0.0"),
        (lambda: MCMCObjective(0.1, 3, 4, magnitude_weight=-1.0), "magnitude_weight=-1.0"),
        (lambda: ScoreMatchingObjective("sliced"), "'sliced'"),
        (lambda: ScoreMatchingObjective("hutchinson", probes=0), "probes=0"),
        (lambda: DSMObjective(0.1, 0), "num_samples=0"),
        (lambda: DSMObjective((0.1, -0.1)), "sigma="),
        (lambda: DSMObjective(math.inf), "sigma=inf"),
        (lambda: NCEObjective(PAIRS, exchangeable=True), "antithetic"),
    ],
)
def test_refuses_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (KLDISObjective(NOISE, 8, (0.1, 0.1)), "label_sigma="),
        (DSMObjective((0.1, 0.1), 8), "sigma="),
        (MCMCObjective((0.1, 0.1), 2, 8), "step_size of shape"),
    ],
)
def test_refuses_settings_for_other_coordinates(objective, message):
    with pytest.raises(ValueError, match=message):
        objective(smooth, some_targets())


def test_mcmc_penalty_is_the_mean_square_of_f_at_target_and_chains():
    targets, scored = torch.randn(5, 2, generator=seeded()), []

    def fn(y):
        scored.append(smooth(y))
        return scored[-1]

    plain = MCMCObjective(0.1, 2, 8)(fn, targets, generator=seeded(1))["loss"]
    f = scored[-1]
    penalised = MCMCObjective(0.1, 2, 8, magnitude_weight=0.3)
    found = penalised(fn, targets, generator=seeded(1))["loss"]
    penalty = f[:, 0].square() + f[:, 1:].square().mean(1)
    torch.testing.assert_close(found, plain + 0.3 * penalty.mean())
