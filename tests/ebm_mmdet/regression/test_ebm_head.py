import math

import pytest
import torch
from mmdet.registry import MODELS

from ebm_mmdet.energy import (
    ProposalLogDensityFn,
    SelectableLogDensityFn,
    gradient_ascent,
    importance_weights,
)
from ebm_mmdet.regression import PredictionSettings
from ebm_mmdet.regression.adaptive_proposal import adaptive_proposal, temperature_for_ess
from ebm_mmdet.regression.densities import WrappedNoise
from ebm_mmdet.regression.heads.ebm_head import corrected_log_z
from ebm_mmdet.regression.heads.image_log_density import OnSupport
from tests.ebm_mmdet.energy.contract_checks import (
    check_log_density_fn,
    check_proposal,
    check_select,
    check_threads,
    seeded,
)
from tests.ebm_mmdet.regression.models import CODECS, WIDTH, build_head, codec, middle

NOISE = {"type": "GaussianMixtureNoise", "sigmas": [0.05, 1.5], "dim": 1}
OBJECTIVES = {
    "nce": {"type": "NCEObjective", "noise": NOISE, "num_noise": 8},
    "nceplus": {"type": "NCEObjective", "noise": NOISE, "num_noise": 8, "beta": 0.1},
    "ml-is": {"type": "MLISObjective", "noise": NOISE, "num_noise": 8},
    "kld-is": {"type": "KLDISObjective", "noise": NOISE, "num_samples": 8},
    "sm": {"type": "ScoreMatchingObjective"},
    "dsm": {"type": "DSMObjective", "sigma": 0.1, "num_samples": 8},
    "mcmc": {"type": "MCMCObjective", "step_size": 0.05, "num_steps": 3, "num_samples": 8},
}


def features(n, width=WIDTH):
    return torch.randn(n, width, generator=seeded(), requires_grad=True)


def gradients(loss, head, h):
    """Names of the parameters that get a gradient from a loss; "h" for the features."""
    named = dict(head.named_parameters()) | {"h": h}
    grads = torch.autograd.grad(loss, named.values(), allow_unused=True, retain_graph=True)
    return {name for name, g in zip(named, grads) if g is not None and g.any()}


def energies(head):
    return {name for name, _ in head.named_parameters() if name.startswith("energy.")}


def proposals(head):
    return {name for name, _ in head.named_parameters() if name.startswith("proposal.")}


@pytest.mark.parametrize("kind", ["ebm_mdn", "ebm_residual"])
@pytest.mark.parametrize("labels", CODECS)
def test_log_density_fulfils_the_contract(labels, kind):
    head = build_head(kind, labels)
    fn = head.log_density_fn(features(3))
    z = torch.randn(3, 6, head.codec.dim, generator=seeded())
    check_log_density_fn(fn, z, rtol=1e-5, atol=1e-6)
    check_select(fn, z, rtol=1e-5, atol=1e-6)
    check_select(OnSupport(fn, head.codec), z, rtol=1e-5, atol=1e-6)
    assert isinstance(fn, ProposalLogDensityFn)
    proposal = fn.proposal()
    check_proposal(proposal, 3, head.codec.dim, list(head.proposal.parameters()))
    plain = build_head("ebm", labels).log_density_fn(features(3))
    assert isinstance(plain, SelectableLogDensityFn)
    assert not isinstance(plain, ProposalLogDensityFn)


def test_f_of_an_angle_is_periodic():
    fn = build_head("ebm", "mixed").log_density_fn(features(2))
    z = torch.randn(2, 5, 2)
    turned = z + torch.tensor([2 * math.pi, 0.0])
    torch.testing.assert_close(fn(z), fn(turned), rtol=1e-4, atol=1e-5)


def test_fixed_noise_trains_the_features_and_f():
    head, h = build_head("ebm"), features(4)
    loss = head.loss(h, middle("count", 4))["loss_energy"]
    # f is defined up to a constant, so its last bias has no gradient but for rounding.
    found = gradients(loss, head, h) - {"energy.out.bias"}
    assert found == energies(head) - {"energy.out.bias"} | {"h"}
    assert proposals(head) == set()


def test_learned_proposal_learns_from_its_own_loss_alone():
    """J_NCE trains f and the features; J_KL and the NLL train the proposal."""
    head, h = build_head("ebm_mdn"), features(4)
    samples = middle("count", 4)
    total = head.loss(h, samples)["loss_energy"]
    found = gradients(total, head, h)
    assert proposals(head) <= found
    assert "h" in found
    torch.manual_seed(3)
    without = head.objective.__class__(num_noise=16, proposal_weight=0.0)
    only_f = without(head.log_density_fn(h), head.encoded_targets(samples))["loss"]
    found = gradients(only_f, head, h)
    assert found & proposals(head) == set()
    assert {"h", "energy.fusion.weight"} <= found
    # What is added by w and v reaches neither f nor the features.
    fn, z = head.log_density_fn(h), head.encoded_targets(samples)
    both = [
        head.objective.__class__(num_noise=16, proposal_weight=w, nll_weight=v)(
            fn, z, generator=seeded()
        )["loss"]
        for w, v in ((0.0, 0.0), (1.0, 1.0))
    ]
    parameters = [p for name, p in head.named_parameters() if name in energies(head)] + [h]
    for a, b in zip(*(torch.autograd.grad(x, parameters, retain_graph=True) for x in both)):
        assert torch.equal(a, b)


@pytest.mark.parametrize("labels", CODECS)
def test_residual_f_is_log_q_plus_g(labels):
    """f(x, y) = log q(y | x) + g(x, y), also where one climbs."""
    head, h = build_head("ebm_residual", labels), features(3)
    fn = head.log_density_fn(h)
    z = torch.randn(3, 5, head.codec.dim, generator=seeded())
    g = head.evaluate(head.energy.image_part(h), z)
    q = head.propose(h)
    torch.testing.assert_close(fn(z), q.log_prob(z) + g)
    result = gradient_ascent(fn, head.codec.project(z[:, 0]), 0.1, 5, project=head.codec.project)
    assert (result.log_density >= fn(head.codec.project(z[:, :1]))[:, 0]).all()
    torch.nn.init.zeros_(head.energy.out.weight)
    torch.nn.init.zeros_(head.energy.out.bias)
    assert torch.equal(head.log_density_fn(h)(z), q.log_prob(z))


def test_residual_g_learns_from_nce_and_q_from_the_labels():
    """J_NCE trains g with q constant; NLL trains q; both train the features."""
    head, h = build_head("ebm_residual"), features(4)
    head.codec.dequantise = False
    samples = middle("count", 4)
    z = head.encoded_targets(samples)
    total = head.loss(h, samples)["loss_energy"]
    nll = -head.propose(h).log_prob(z.unsqueeze(1)).mean()
    parameters = list(head.proposal.parameters())
    for a, b in zip(
        torch.autograd.grad(total, parameters, retain_graph=True),
        torch.autograd.grad(nll, parameters, retain_graph=True),
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert "h" in gradients(nll, head, h)
    assert {"h", "energy.fusion.weight"} <= gradients(total, head, h)
    assert gradients(total - nll, head, h) & energies(head)


def test_residual_head_refuses_what_it_cannot_learn_from():
    with pytest.raises(ValueError, match="proposal=None"):
        build_head("ebm", residual=True)
    for wrong in ({}, {"nll_weight": 0.5}, {"proposal_weight": 0.0}, {"form": "ml-is"}):
        with pytest.raises(ValueError, match="learns from the labels alone"):
            build_head("ebm_residual", objective={"type": "ProposalObjective", **wrong})


def test_residual_density_is_the_mixture_before_g_has_learned():
    """At g = 0 all importance weights are those of q, and log Z is 0 up to q's mass outside."""
    head, h = build_head("ebm_residual", "angle"), features(3).detach()
    torch.nn.init.zeros_(head.energy.out.weight)
    torch.nn.init.zeros_(head.energy.out.bias)
    posterior = head.posterior(h, PredictionSettings(num_samples=512, uniform_share=0.0))
    torch.testing.assert_close(posterior.ess, torch.full((3,), 512.0))
    torch.testing.assert_close(posterior.log_z, torch.zeros(3), rtol=0, atol=1e-4)


def test_warm_up_trains_the_proposal_by_the_labels_alone():
    head, h = build_head("ebm_mdn"), features(4)
    z = head.codec.encode(torch.tensor([[10.0]] * 4))
    head.proposal_warm_up = True
    head.codec.dequantise = False
    samples = middle("count", 4)
    loss = head.loss(h, samples)["loss_energy"]
    z = head.encoded_targets(samples)
    nll = -head.propose(h).log_prob(z.unsqueeze(1)).mean()
    parameters = list(head.proposal.parameters())
    for a, b in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(nll, parameters)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_it(name):
    act = {"type": "SiLU"} if name in ("sm", "dsm", "mcmc") else None
    head = build_head("ebm", objective=OBJECTIVES[name], act_cfg=act)
    for n in (3, 1, 0):
        h = features(n)
        loss = head.loss(h, middle("count", n))["loss_energy"]
        assert loss.isfinite()
        grads = torch.autograd.grad(loss, head.parameters(), allow_unused=False)
        assert all(g.isfinite().all() for g in grads)
        assert any(g.any() for g in grads) == (n > 0)


@pytest.mark.parametrize("labels", CODECS)
@pytest.mark.parametrize("kind", ["ebm", "ebm_mdn", "ebm_residual"])
def test_no_image_and_one_image(labels, kind):
    head = build_head(kind, labels)
    for n in (0, 1):
        h = features(n)
        loss = head.loss(h, middle(labels, n))["loss_energy"]
        assert loss.isfinite()
        # No parameter is unused, for distributed training.
        assert all(g is not None for g in torch.autograd.grad(loss, head.parameters()))
        settings = PredictionSettings(num_samples=32, num_resampled=4, grid_points=33)
        assert len(head.predict(h, middle(labels, n), settings)) == n


def test_objective_and_proposal_belong_together():
    with pytest.raises(ValueError, match="needs a proposal"):
        build_head("ebm", objective={"type": "ProposalObjective"})
    with pytest.raises(ValueError, match="no other objective would train one"):
        build_head("ebm_mdn", objective=OBJECTIVES["nce"])
    with pytest.raises(RuntimeError, match="num_components"):
        build_head("ebm").propose(features(1))


NOISY = {name: each for name, each in OBJECTIVES.items() if "noise" in each}
NOISY["exchangeable"] = {**OBJECTIVES["nce"], "exchangeable": True}


@pytest.mark.parametrize("labels", ["pose", "mixed"])
@pytest.mark.parametrize("name", NOISY)
def test_every_coordinate_has_noise_of_its_own(name, labels):
    """Noise of one coordinate would be added to all alike, and f trained on a diagonal alone."""
    objective = NOISY[name]
    count = codec(labels).dim
    with pytest.raises(ValueError, match=rf"dim=1 .* {count} ranges.*noise\.dim={count}"):
        build_head("ebm", labels, objective=objective)
    head = build_head("ebm", labels, objective={**objective, "noise": {**NOISE, "dim": count}})
    seen = []
    head.energy.forward = lambda part, x: seen.append(x) or x.new_zeros(x.shape[:2])
    head.loss(features(1), middle(labels, 1))
    offsets = head.codec.unembed(seen[0] / head.y_gain)[0]
    offsets = offsets - offsets[0]
    assert torch.linalg.matrix_rank(offsets, rtol=1e-3) == count


def test_noise_around_an_angle_is_on_the_circle():
    assert isinstance(build_head("ebm", "angle").objective.noise, WrappedNoise)
    assert not isinstance(build_head("ebm", "count").objective.noise, WrappedNoise)
    nceplus = build_head("ebm", "angle", objective=OBJECTIVES["nceplus"])
    assert nceplus.loss(features(2), middle("angle", 2))["loss_energy"].isfinite()


class Given:
    """A head whose f is a given function of z instead of a network."""

    def __init__(self, labels, f, proposal="ebm_mdn"):
        self.head = build_head(proposal, labels)
        self.head.energy.forward = lambda image_part, x: f(x)

    def posterior(self, n=1, **settings):
        with torch.no_grad():
            return self.head.posterior(features(n).detach(), PredictionSettings(**settings))


def test_grid_likelihood_of_a_gaussian_is_its_closed_form():
    """∫ over the support of exp(-z²/2s²) = s √(2π) (Φ(b/s) - Φ(a/s))."""
    for s in (0.03, 0.5, 3.0):
        given = Given("count", lambda x, s=s: -0.5 * (x[..., 0] / s).square())
        p = given.posterior(method="grid")
        codec_ = given.head.codec
        ends = torch.stack([codec_.low, codec_.high]).double() / s
        normal = torch.distributions.Normal(0.0, 1.0)
        mass = normal.cdf(ends[1]) - normal.cdf(ends[0])
        expected = (mass * s * math.sqrt(2 * math.pi)).log()
        torch.testing.assert_close(p.log_z.double(), expected, rtol=1e-5, atol=2e-5)
        assert p.ess is None
        z = torch.tensor([[[0.1], [5.0]]])
        log_p = p.log_prob(z)[0]
        assert float(log_p[0]) == pytest.approx(float(-0.5 * (0.1 / s) ** 2 - expected), abs=1e-3)
        assert log_p[1] == -torch.inf


def bimodal(x):
    """Two narrow modes, of different weight."""
    return torch.logaddexp(
        -0.5 * ((x[..., 0] - 0.8) / 0.1).square(),
        -0.5 * ((x[..., 0] + 0.9) / 0.05).square() + 0.7,
    )


def test_log_z_by_samples_and_by_the_grid_agree():
    """Within four standard deviations, sd = sqrt(1/ESS - 1/M), for a poor proposal."""
    given = Given("count", bimodal)
    grid = given.posterior(method="grid").log_z
    for seed in range(10):
        p = given.posterior(method="samples", num_samples=4096, seed=seed)
        sd = (1 / p.ess - 1 / 4096).sqrt()
        assert (p.log_z - grid).abs() < 4 * sd
        assert p.ess > 100


@pytest.mark.parametrize(("count", "ratio"), [(64, 0.4), (256, 0.4), (64, 0.7)])
def test_bias_of_log_z_is_the_formula(count, ratio):
    """E log Ẑ - log Z = -½ (1/ESS - 1/M) within 30 %, here for log-normal weights."""
    sigma = math.sqrt(-math.log(ratio))  # ESS/M of exp(σ ξ) is exp(-σ²)
    logits = sigma * torch.randn(20_000, count, generator=seeded(), dtype=torch.float64)
    w = importance_weights(logits, torch.zeros_like(logits))
    exact = sigma**2 / 2
    # Ẑ/Z - 1 has the mean 0, and nearly all of the noise.
    noise = float((w.log_z - exact).exp().mean()) - 1
    bias, formula = (w.log_z - exact).mean() - noise, 0.5 * (1 / w.ess - 1 / count).mean()
    bias, formula = float(bias), float(formula)
    assert bias == pytest.approx(-formula, rel=0.3)
    assert abs(float((corrected_log_z(w) - exact).mean()) - noise) < 0.3 * formula
    spread = float((1 / w.ess - 1 / count).sqrt().mean())
    assert float(w.log_z.std()) == pytest.approx(spread, rel=0.1)


@pytest.mark.filterwarnings("ignore:1 of 1 targets")
def test_nothing_is_corrected_where_nothing_is_known():
    nowhere = torch.full((1, 5), -torch.inf)
    assert corrected_log_z(importance_weights(nowhere, torch.zeros(1, 5))) == -torch.inf


def test_few_effective_samples_are_reported(monkeypatch):
    from ebm_mmdet.energy import importance

    monkeypatch.setattr(importance._Warned, "already", False)
    given = Given("count", lambda x: -0.5 * ((x[..., 0] - 1.2) / 1e-4).square())
    with pytest.warns(RuntimeWarning, match="effective sample size"):
        p = given.posterior(method="samples", num_samples=64)
    assert p.ess < 2


def test_adaptive_proposal_finds_both_modes_in_three_dimensions():
    centre = torch.tensor([[0.8, -0.5, 0.3], [-0.9, 0.6, 0.3]])

    def two_modes(x):
        d = (x.unsqueeze(-2) - centre) / 0.05
        return (-0.5 * d.square().sum(-1)).logsumexp(-1)

    given = Given("pose", two_modes, proposal="ebm")
    p = given.posterior(2, num_samples=2048)
    assert (p.ess > 300).all()
    exact = math.log(2) + 3 * math.log(0.05 * math.sqrt(2 * math.pi))
    assert ((p.log_z - exact).abs() < 5 * (1 / p.ess).sqrt()).all()
    share = (p.weights * (p.points[..., 0] > 0)).sum(1)
    assert ((share - 0.5).abs() < 0.1).all()
    assert torch.equal(p.points[0], p.points[1]), "depends on the other images of the batch"


def test_adaptive_proposal_crosses_the_border_of_a_circle():
    given = Given("angle", lambda x: 40 * -x[..., 0], proposal="ebm")  # x = (cos, sin)
    p = given.posterior(method="samples", num_samples=512)
    grid = given.posterior(method="grid")
    assert p.ess > 150
    assert (p.log_z - grid.log_z).abs() < 5 * (1 / p.ess).sqrt()


def test_adaptive_proposal_of_a_flat_and_of_a_hopeless_density():
    c = codec("count")
    for f in (lambda z: torch.zeros(z.shape[:2]), lambda z: torch.full(z.shape[:2], -torch.inf)):
        q = adaptive_proposal(f, c, 2, 64, seeded())
        assert q.means.isfinite().all()
        assert q.log_sigmas.isfinite().all()
    assert len(adaptive_proposal(lambda z: z[..., 0], c, 0, 64, seeded())) == 0


def test_temperature_keeps_the_effective_sample_size():
    f = -torch.rand(3, 1000, generator=seeded()) * torch.tensor([[0.1], [30.0], [3000.0]])
    beta = temperature_for_ess(f, torch.zeros_like(f), 0.1)
    assert beta[0] == 1
    ess = 1 / (beta * f).softmax(1).square().sum(1)
    torch.testing.assert_close(ess[1:], torch.full((2,), 100.0), rtol=0.02, atol=0)


def test_a_grid_is_for_one_coordinate():
    with pytest.raises(ValueError, match="one coordinate"):
        build_head("ebm", "pose").posterior(features(1), PredictionSettings(method="grid"))


def test_mode_never_falls_and_ascent_works_unchanged():
    head = build_head("ebm")
    fn = head.log_density_fn(features(3))
    y0 = torch.zeros(3, 1)
    result = gradient_ascent(fn, y0, 0.1, 10, project=head.codec.project)
    assert (result.log_density >= fn(y0.unsqueeze(1)).squeeze(1)).all()
    assert all(p.grad is None for p in head.parameters())


def test_features_of_any_precision_and_mode_give_float32():
    head = build_head("ebm_mdn")
    h = features(2).detach()
    z = torch.zeros(2, 3, 1)
    expected = head.log_density_fn(h)(z)
    with torch.inference_mode():
        inferred = h * 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fn = head.log_density_fn(h)
        assert fn(z).dtype == torch.float32
        torch.testing.assert_close(fn(z), expected)
    fn = head.log_density_fn(inferred)
    assert gradient_ascent(fn, torch.zeros(2, 1), 0.1, 3).y.shape == (2, 1)
    half = head.log_density_fn(h.half())
    torch.testing.assert_close(half(z), expected, rtol=1e-2, atol=1e-2)


def test_threads_share_a_head():
    head = build_head("ebm_mdn", "pose").eval()
    settings = PredictionSettings(num_samples=32, num_resampled=4)

    def call(i):
        h = torch.randn(2, WIDTH, generator=seeded(i))
        return [s.pred_target for s in head.predict(h, None, settings)]

    check_threads(call, threads=2, calls=8)


def test_gains_multiply_what_the_network_reads_and_returns():
    plain = build_head("ebm", "mixed")
    sharp = build_head("ebm", "mixed", y_gain=5.0, f_gain=3.0)
    sharp.load_state_dict(plain.state_dict())
    h, z = features(2), torch.randn(2, 3, 2)
    expected = 3 * plain.energy(plain.energy.image_part(h), 5 * plain.codec.embed(z))
    torch.testing.assert_close(sharp.log_density_fn(h)(z), expected)


@pytest.mark.parametrize("name", ["y_gain", "f_gain"])
@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan")])
def test_gains_must_be_positive_and_finite(name, value):
    with pytest.raises(ValueError, match=name):
        build_head("ebm", **{name: value})


def test_published_sizes():
    """Weights of f and of the proposal, as released for one coordinate and for three."""
    for ranges, f, q in (([(-100, 100)], 339_713, 794_124), ([(-80, 80)] * 3, 339_745, 802_332)):
        head = MODELS.build(
            {
                "type": "EBMRegressionHead",
                "in_channels": 512,
                "codec": {"ranges": ranges},
                "proposal": {"num_components": 4},
            }
        )
        assert sum(p.numel() for p in head.energy.parameters()) == f
        assert sum(p.numel() for p in head.proposal.parameters()) == q
