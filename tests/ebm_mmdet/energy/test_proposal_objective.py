"""f and a learned proposal together: the flow of gradients, and the optimum."""

import math
from itertools import pairwise

import pytest
import torch

from ebm_mmdet.energy import (
    GaussianMixtureNoise,
    MixtureDensity,
    MixtureDensityHead,
    NCEObjective,
    ProposalObjective,
    mdn_teacher_loss,
    ml_is_loss,
    nce_loss,
    proposal_kl_loss,
)

FORMS = ("nce", "ml-is")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Model(torch.nn.Module):
    """A backbone, f on its features, and a proposal on the same features."""

    def __init__(self, detach=True):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = torch.nn.Linear(3, 5)
        self.energy = torch.nn.Sequential(
            torch.nn.Linear(7, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
        )
        self.proposal = MixtureDensityHead(5, 2, 3)
        self.detach = detach

    def forward(self, x):
        h = self.backbone(x).tanh()

        def f(y):
            h_y = torch.cat([h.unsqueeze(1).expand(-1, y.shape[1], -1), y], dim=-1)
            return self.energy(h_y).squeeze(-1) - 0.1 * y.square().sum(-1)

        return f, self.proposal(h.detach() if self.detach else h)


X = torch.randn(6, 3, generator=seeded(5))
TARGETS = torch.randn(6, 2, generator=seeded(6))


def run(objective, model=None, targets=TARGETS, **arguments):
    model = Model() if model is None else model
    f, proposal = model(X[: len(targets)])
    return objective(f, targets, proposal=proposal, generator=seeded(), **arguments)


def gradients(module):
    return [p.grad for p in module.parameters()]


@pytest.mark.parametrize("form", FORMS)
def test_value_from_the_definitions(form):
    model = Model()
    f, proposal = model(X)
    result = run(ProposalObjective(15, form, 0.3, nll_weight=0.2), model)
    y = torch.cat([TARGETS.unsqueeze(1), proposal.draw(15, seeded())], dim=1)
    log_f, log_q = f(y), proposal.log_prob(y)
    kl = proposal_kl_loss(log_f[:, 1:], log_q[:, 1:])
    nll = -log_q[:, 0].mean()
    if form == "nce":
        expected = nce_loss(log_f, log_q) + 0.3 * kl + 0.2 * nll
    else:
        expected = ml_is_loss(log_f, log_q) + 0.2 * nll
    torch.testing.assert_close(result["loss"], expected)
    torch.testing.assert_close(result["log_z"], kl)
    torch.testing.assert_close(result["proposal_nll"], nll)
    assert 0 < result["ess_ratio"].item() <= 1
    assert 0 <= result["accuracy"].item() <= 1
    assert [key for key in result if "loss" in key] == ["loss"]
    assert not any(value.requires_grad for key, value in result.items() if key != "loss")


@pytest.mark.parametrize("form", FORMS)
def test_f_is_called_once_with_constant_points(form):
    calls = []
    f, proposal = Model()(X)

    def recorded(y):
        calls.append(y)
        return f(y)

    ProposalObjective(15, form)(recorded, TARGETS, proposal=proposal, generator=seeded())
    (y,) = calls
    assert y.shape == (6, 16, 2)
    assert torch.equal(y[:, 0], TARGETS)
    assert not y.requires_grad


@pytest.mark.parametrize("form", FORMS)
def test_f_learns_from_its_own_term_only(form):
    """Its gradient, and that of the backbone, are those without any proposal loss: bit for bit."""
    with_kl, without = Model(), Model()
    run(ProposalObjective(15, form, 1.0, nll_weight=0.7), with_kl)["loss"].backward()
    f, proposal = without(X)
    y = torch.cat([TARGETS.unsqueeze(1), proposal.draw(15, seeded())], dim=1)
    loss = {"nce": nce_loss, "ml-is": ml_is_loss}[form]
    loss(f(y), proposal.log_prob(y).detach()).backward()
    for module in ("energy", "backbone"):
        for a, b in zip(gradients(getattr(with_kl, module)), gradients(getattr(without, module))):
            assert torch.equal(a, b)
    assert all(g is None for g in gradients(without.proposal))


@pytest.mark.parametrize("form", FORMS)
def test_the_proposal_learns_from_its_own_terms_only(form):
    """Σ w ∇(-log q), w = softmax(u): the gradient of Result 1, times its weight."""
    joint, alone = Model(), Model()
    run(ProposalObjective(15, form, 0.3), joint)["loss"].backward()
    f, proposal = alone(X)
    y = proposal.draw(15, seeded())
    log_q = proposal.log_prob(y)
    weights = (f(y) - log_q).softmax(1).detach()
    (-0.3 * (weights * log_q).sum(1).mean()).backward()
    for a, b in zip(gradients(joint.proposal), gradients(alone.proposal)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    assert all(g is None for g in gradients(alone.energy))


@pytest.mark.parametrize("form", FORMS)
def test_weight_zero_leaves_the_proposal_alone(form):
    model = Model()
    run(ProposalObjective(15, form, proposal_weight=0.0), model)["loss"].backward()
    assert all(g is None or (g == 0).all() for g in gradients(model.proposal))
    assert (model.energy[0].weight.grad != 0).any()


def test_proposal_trains_the_backbone_unless_features_are_detached():
    """The caller has to detach the features, because the objective cannot know them."""
    grads = []
    for detach in (True, False):
        model = Model(detach)
        run(ProposalObjective(15), model)["loss"].backward()
        grads.append(model.backbone.weight.grad)
    assert (grads[0] - grads[1]).abs().max() > 1e-4


def test_teacher_form_is_half_and_half():
    model = Model()
    f, proposal = model(X)
    y = torch.cat([TARGETS.unsqueeze(1), proposal.draw(15, seeded())], dim=1)
    log_f, log_q = f(y), proposal.log_prob(y)
    mdn = mdn_teacher_loss(log_f[:, 1:], log_q[:, 1:], log_q[:, 0])
    loss = run(ProposalObjective(15, "nce", 0.5, nll_weight=0.5), model)["loss"]
    torch.testing.assert_close(loss, nce_loss(log_f, log_q) + mdn)


def test_is_nce_for_a_proposal_that_is_the_noise():
    """One standard Gaussian for all targets at 0: the same loss as target-centred noise there."""
    n, m = 2000, 63
    proposal = MixtureDensity(
        torch.zeros(n, 1), torch.zeros(n, 1, 2), torch.full((n, 1, 2), math.log(0.3))
    )

    def f(y):
        return -2 * y.square().sum(-1) + y[..., 0]

    targets = torch.zeros(n, 2)
    learned = ProposalObjective(m, proposal_weight=0.0)(
        f, targets, proposal=proposal, generator=seeded()
    )
    noise = NCEObjective(GaussianMixtureNoise([0.3], dim=2), m)(f, targets, generator=seeded(1))
    assert learned["loss"].item() == pytest.approx(noise["loss"].item(), abs=0.03)
    assert learned["accuracy"].item() == pytest.approx(noise["accuracy"].item(), abs=0.02)


@pytest.mark.parametrize("form", FORMS)
def test_constant_in_f_changes_nothing(form):
    f, proposal = Model()(X)
    offset = torch.linspace(-10, 10, 6)[:, None]
    results = [
        ProposalObjective(15, form, 0.0)(fn, TARGETS, proposal=proposal, generator=seeded())
        for fn in (f, lambda y: f(y) + offset)
    ]
    for key in ("loss", "ess_ratio", "accuracy"):
        torch.testing.assert_close(results[1][key], results[0][key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_translation_of_everything_changes_nothing(form):
    f, q = Model()(X)
    moved = MixtureDensity(q.log_weights, q.means + 5, q.log_sigmas)
    objective = ProposalObjective(15, form, nll_weight=0.5)
    here = objective(f, TARGETS, proposal=q, generator=seeded())
    there = objective(lambda y: f(y - 5), TARGETS + 5, proposal=moved, generator=seeded())
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_weight_and_avg_factor_reach_every_term(form):
    objective = ProposalObjective(15, form, nll_weight=0.5)
    each = [run(objective, weight=row, avg_factor=1.0)["loss"].item() for row in torch.eye(6)]
    assert run(objective)["loss"].item() == pytest.approx(sum(each) / 6, rel=1e-4)
    weight = torch.tensor([2.0, 0, 0, 1, 0, 0])
    assert run(objective, weight=weight, avg_factor=8.0)["loss"].item() == pytest.approx(
        (2 * each[0] + each[3]) / 8, rel=1e-4
    )


@pytest.mark.parametrize("form", FORMS)
def test_no_targets(form):
    model = Model()
    result = run(ProposalObjective(15, form, nll_weight=0.5), model, TARGETS[:0])
    result["loss"].backward()
    assert {key: value.item() for key, value in result.items()} == dict.fromkeys(result, 0)
    for parameter in model.parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))


def test_refuses_bad_settings():
    for arguments, message in [
        ((0,), "num_noise=0"),
        ((8, "kld"), "form='kld'"),
        ((8, "nce", -1.0), "proposal_weight=-1.0"),
        ((8, "nce", 1.0, math.inf), "nll_weight=inf"),
    ]:
        with pytest.raises(ValueError, match=message):
            ProposalObjective(*arguments)


def bimodal(y):
    """0.8 N(-1, 0.3²) + 0.2 N(1, 0.3²), unnormalised by a constant; y (..., 1)."""
    y = y.squeeze(-1)
    modes = [math.log(w) - 0.5 * ((y - m) / 0.3) ** 2 for w, m in [(0.8, -1.0), (0.2, 1.0)]]
    return torch.stack(modes).logsumexp(0)


def train_free_proposal(k):
    """A mixture as a free parameter vector, from N(0, 1.2²)-like; KL by quadrature, ESS/M."""
    spread = 0.1 * torch.linspace(-1, 1, k) if k > 1 else torch.zeros(1)
    parameters = [
        torch.zeros(1, k),
        spread.view(1, k, 1).clone(),
        torch.full((1, k, 1), math.log(1.2)),
    ]
    parameters = [p.requires_grad_() for p in parameters]
    optimizer, generator = torch.optim.Adam(parameters, 1e-2), seeded()
    grid = torch.linspace(-6, 6, 4001).view(1, -1, 1)
    log_p = bimodal(grid) - math.log(0.3 * math.sqrt(2 * math.pi))

    def density():
        return MixtureDensity(parameters[0].log_softmax(1), *parameters[1:])

    def divergence():
        difference = log_p - density().log_prob(grid).detach()
        return torch.trapezoid(log_p.exp() * difference, grid.squeeze(-1)).item()

    start, ess = divergence(), []
    for _ in range(1000):
        q = density()
        y = q.draw(256, generator)
        log_f, log_q = bimodal(y), q.log_prob(y)
        loss = proposal_kl_loss(log_f, log_q)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        weights = (log_f - log_q).detach().softmax(1)
        ess.append((1 / weights.square().sum() / 256).item())
    checkpoints = [sum(ess[i : i + 50]) / 50 for i in (0, 200, 400, 600, 800, 950)]
    return start, divergence(), checkpoints, density()


def test_proposal_finds_both_modes():
    start, end, ess, _ = train_free_proposal(2)
    assert start == pytest.approx(0.77, abs=0.05)
    assert end < 0.03
    assert all(later > earlier - 0.05 for earlier, later in pairwise(ess))
    assert ess[-1] > 0.9


def test_single_gaussian_proposal_matches_the_moments():
    """The minimiser of KL(p ‖ q): mean -0.6, variance 0.73, KL 0.547."""
    _, end, _, q = train_free_proposal(1)
    assert end == pytest.approx(0.547, abs=0.03)
    assert q.means.item() == pytest.approx(-0.6, abs=0.1)
    assert q.log_sigmas.exp().square().item() == pytest.approx(0.73, abs=0.12)
