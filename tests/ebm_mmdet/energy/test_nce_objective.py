"""NCE and NCE+ as objectives: their draws, weights and results."""

import math

import pytest
import torch

from ebm_mmdet.energy import GaussianMixtureNoise, NCEObjective

NOISE = GaussianMixtureNoise((0.075, 0.15, 0.3), dim=4)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Recorder:
    """A smooth f that records the points at which it was evaluated."""

    def __init__(self):
        self.calls = []

    def __call__(self, y):
        self.calls.append(y)
        return torch.sin(3 * y).sum(-1) - y.square().sum(-1)


def some_targets(n=6, dim=4, dtype=torch.float32):
    return torch.randn(n, dim, generator=seeded(9), dtype=dtype)


def test_scores_every_point_in_one_call_with_the_target_first():
    f, targets = Recorder(), some_targets()
    result = NCEObjective(NOISE)(f, targets, generator=seeded())
    (points,) = f.calls
    assert points.shape == (6, 128, 4)
    assert points.dtype == torch.float32
    assert torch.equal(points[:, 0], targets)
    assert all(value.shape == () for value in result.values())
    assert [key for key in result if "loss" in key] == ["loss"]


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_exchangeable_form_is_softmax_of_f_among_points_around_one_centre(beta):
    """Var(y_m) = Var(ν) + 2 Var(δ), and all y_m of a target share the centre."""
    f, variance = Recorder(), NOISE.sigmas.square().mean().item()
    objective = NCEObjective(NOISE, num_noise=2, beta=beta, exchangeable=True)
    result = objective(f, torch.zeros(50_000, 4), generator=seeded())
    (points,) = f.calls
    log_f = Recorder()(points)
    torch.testing.assert_close(result["loss"], (log_f.logsumexp(1) - log_f[:, 0]).mean())
    assert result["accuracy"] == (log_f.argmax(1) == 0).float().mean()
    first, second = points[:, 1], points[:, 2]
    assert first.square().mean().item() == pytest.approx((2 + beta**2) * variance, rel=0.05)
    assert (first * second).mean().item() == pytest.approx((1 + beta**2) * variance, rel=0.05)
    assert (points[:, 0] == 0).all() == (beta == 0)


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_loss_weighs_every_point_with_the_unscaled_noise(beta):
    f, targets = Recorder(), some_targets(dtype=torch.float64)
    loss = NCEObjective(NOISE, num_noise=15, beta=beta)(f, targets, generator=seeded())["loss"]
    (points,) = f.calls
    logits = Recorder()(points) - NOISE.log_prob(points - targets[:, None])
    torch.testing.assert_close(loss, (logits.logsumexp(1) - logits[:, 0]).mean())


def test_positive_of_nce_plus_is_perturbed_by_the_scaled_mixture():
    f = Recorder()
    NCEObjective(NOISE, num_noise=1, beta=0.1)(f, torch.zeros(40_000, 4), generator=seeded())
    nu = f.calls[0][:, 0]
    variance = 0.01 * NOISE.sigmas.square().mean().item()
    squares = nu.square().mean(1)
    error = (squares.std() / math.sqrt(len(squares))).item()
    assert squares.mean().item() == pytest.approx(variance, abs=5 * error)
    assert error < 0.05 * variance
    assert len(nu.unique(dim=0)) == len(nu), "every target has a perturbation of its own"


def test_noise_is_the_same_for_every_beta_and_nce_is_the_limit():
    losses, points = [], []
    for beta in (0.0, 1e-4, 0.1):
        f = Recorder()
        objective = NCEObjective(NOISE, beta=beta)
        losses.append(objective(f, some_targets(), generator=seeded())["loss"].item())
        points.append(f.calls[0][:, 1:])
    assert torch.equal(points[0], points[1])
    assert torch.equal(points[0], points[2])
    assert abs(losses[1] - losses[0]) < 1e-3
    assert abs(losses[2] - losses[0]) > 1e-2


@pytest.mark.parametrize(("beta", "expected"), [(0.0, 12.91), (0.1, 12.78)])
def test_flat_density(beta, expected):
    result = NCEObjective(NOISE, beta=beta)(
        lambda y: torch.zeros(y.shape[:2]), torch.zeros(4000, 4), generator=seeded()
    )
    assert result["loss"].item() == pytest.approx(expected, abs=0.085)
    assert result["log_density_gap"].item() == 0


def test_constants_and_translations_change_nothing():
    objective = NCEObjective(NOISE, beta=0.1)
    targets = some_targets(dtype=torch.float64)
    expected = objective(Recorder(), targets, generator=seeded())["loss"]
    offset = torch.linspace(-10, 10, 6, dtype=torch.float64)[:, None]
    raised = objective(lambda y: Recorder()(y) + offset, targets, generator=seeded())["loss"]
    moved = objective(lambda y: Recorder()(y - 5.0), targets + 5.0, generator=seeded())["loss"]
    torch.testing.assert_close(raised, expected)
    torch.testing.assert_close(moved, expected)


def test_target_centred_noise_is_biased_for_one_sample():
    """Documents the definition: data N(0, 1), noise N(y*, 1.5²), M = 1, d/da at a = 1."""
    data = torch.randn(200_000, 1, generator=seeded(), dtype=torch.float64)
    a = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    objective = NCEObjective(GaussianMixtureNoise([1.5], dim=1), num_noise=1)
    loss = objective(lambda y: -0.5 * a * y.squeeze(-1).square(), data, generator=seeded(1))["loss"]
    (gradient,) = torch.autograd.grad(loss, a)
    assert gradient.item() == pytest.approx(-0.0596, abs=0.005)


def test_tends_to_the_negative_log_likelihood():
    """J - log M - log q(0) → NLL; f = -y²/2, target 0, q = N(0, 1.5²), M = 4096."""
    noise = GaussianMixtureNoise([1.5], dim=1)
    targets = torch.zeros(64, 1, dtype=torch.float64)
    objective = NCEObjective(noise, num_noise=4096)
    loss = objective(lambda y: -0.5 * y.squeeze(-1).square(), targets, generator=seeded())["loss"]
    nll = loss - math.log(4096) - noise.log_prob(torch.zeros(1, dtype=torch.float64))
    assert nll.item() == pytest.approx(0.5 * math.log(2 * math.pi), abs=5e-3)


def test_diagnostics_of_a_sharp_and_of_an_inverted_density():
    objective, targets = NCEObjective(NOISE), torch.zeros(20, 4)
    sharp = objective(lambda y: -1e3 * y.norm(dim=-1), targets, generator=seeded())
    inverted = objective(lambda y: 1e3 * y.norm(dim=-1), targets, generator=seeded())
    assert sharp["accuracy"].item() == 1
    assert inverted["accuracy"].item() == 0
    assert sharp["log_density_gap"].item() == pytest.approx(-inverted["log_density_gap"].item())
    assert sharp["log_density_gap"].item() > 100
    assert inverted["logit_max"].item() > 100 > sharp["logit_max"].item()


def test_diagnostics_carry_no_graph_and_the_loss_does():
    parameter = torch.ones(4, requires_grad=True)
    result = NCEObjective(NOISE)(lambda y: (y * parameter).sum(-1), some_targets())
    assert result.pop("loss").requires_grad
    assert not any(value.requires_grad for value in result.values())


@pytest.mark.parametrize("avg_factor", [None, 0.0, 4.0])
def test_no_targets(avg_factor):
    head = torch.nn.Linear(4, 1)
    result = NCEObjective(NOISE, beta=0.1)(
        lambda y: head(y).squeeze(-1), torch.zeros(0, 4), avg_factor=avg_factor
    )
    result["loss"].backward()
    assert {key: value.item() for key, value in result.items()} == dict.fromkeys(result, 0)
    assert torch.equal(head.weight.grad, torch.zeros(1, 4))


def test_weight_and_avg_factor_reach_the_loss():
    objective, targets = NCEObjective(NOISE), some_targets()

    def loss(**arguments):
        return objective(Recorder(), targets, generator=seeded(), **arguments)["loss"].item()

    one_hot = torch.eye(6)
    each = [loss(weight=row, avg_factor=1.0) for row in one_hot]
    assert loss() == pytest.approx(sum(each) / 6, rel=1e-5)
    assert loss(weight=2 * one_hot[0] + one_hot[3], avg_factor=8.0) == pytest.approx(
        (2 * each[0] + each[3]) / 8, rel=1e-5
    )


def test_half_precision_scores_give_a_float32_loss():
    head = torch.nn.Linear(4, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = []

        def f(y):
            seen.append(y.dtype)
            scores = head(y).squeeze(-1)
            seen.append(scores.dtype)
            return scores

        loss = NCEObjective(NOISE)(f, some_targets().bfloat16())["loss"]
    assert seen == [torch.float32, torch.bfloat16]
    assert loss.dtype == torch.float32
    loss.backward()
    assert head.weight.grad.isfinite().all()


def test_a_learned_density_gets_no_gradient_from_nce():
    class Learned:
        def __init__(self):
            self.log_sigma = torch.zeros(4, requires_grad=True)

        def log_prob(self, offsets):
            return torch.distributions.Normal(0.0, self.log_sigma.exp()).log_prob(offsets).sum(-1)

        def sample(self, n, num_samples, generator=None, device=None, dtype=torch.float32):
            offsets = torch.randn(n, num_samples, 4, generator=generator, dtype=dtype)
            return offsets, self.log_prob(offsets)

    parameter = torch.ones(4, requires_grad=True)
    learned = Learned()
    loss = NCEObjective(learned)(lambda y: (y * parameter).sum(-1), some_targets())["loss"]
    loss.backward()
    assert learned.log_sigma.grad is None
    assert parameter.grad is not None


def test_refuses_bad_settings_and_bad_functions():
    for num_noise in (-1, 0):
        with pytest.raises(ValueError, match=f"num_noise={num_noise}"):
            NCEObjective(NOISE, num_noise=num_noise)
    for beta in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="beta="):
            NCEObjective(NOISE, beta=beta)
    with pytest.raises(ValueError, match=r"shape \(6, 128, 1\).*expected.*\(6, 128\)"):
        NCEObjective(NOISE)(lambda y: y[..., :1], some_targets())
