"""ProposalEBMBBoxHead: references, stop-gradients, and that q learns where the object is."""

from __future__ import annotations

import math

import pytest
import torch
from mmdet.registry import MODELS

from ebm_mmdet.energy import evaluate_only, gradient_ascent
from ebm_mmdet.models import decode_boxes, encode_boxes
from tests.ebm_mmdet.models.toys import NUM_CLASSES, batch, build, ebm_cfg

REFERENCE_NOISE = dict(type="GaussianMixtureNoise", sigmas=[[0.03, 0.03, 0.06, 0.06]])
PROPOSAL = dict(
    type="ProposalEBMBBoxHead",
    proposal=dict(num_components=2, hidden=16),
    reference_noise=REFERENCE_NOISE,
    objective=dict(type="ProposalObjective", num_noise=15),
)


def head_cfg(**overrides) -> dict:
    return {
        "num_classes": NUM_CLASSES,
        "in_channels": 4,
        "strides": [4],
        "fc_channels": [32, 32],
        **PROPOSAL,
        **overrides,
    }


def make_head(seed: int = 0, **overrides):
    torch.manual_seed(seed)
    head = MODELS.build(head_cfg(**overrides))
    torch.nn.init.normal_(head.fc_energy.weight, std=0.1)
    return head


FEATS = [torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))]
BOXES = torch.tensor([[10.0, 10, 50, 40], [30.0, 60, 100, 110], [0.0, 0, 128, 128]])
INDEX, LABELS = torch.tensor([0, 1, 1]), torch.tensor([0, 2, 1])


def test_proposal_and_density_share_their_coordinates():
    head = make_head()
    reference = decode_boxes(torch.full((3, 4), 0.1), BOXES)
    fn = head.log_density_fn(FEATS, reference, INDEX, LABELS)
    q = fn.proposal()
    assert len(q) == 3
    u = encode_boxes(BOXES, reference).unsqueeze(1)
    torch.testing.assert_close(fn(u), head.log_density(FEATS, BOXES[:, None], INDEX, LABELS))
    # At the start: as wide as the residuals it is to model.
    spread = torch.tensor(REFERENCE_NOISE["sigmas"])
    assert (q.log_prob(u) > q.log_prob(u + 20 * spread)).all()
    torch.testing.assert_close(head.proposal[-1].target_std, spread[0])


def test_proposal_of_some_targets_is_that_of_all():
    fn = make_head().eval().log_density_fn(FEATS, BOXES, INDEX, LABELS)
    index = torch.tensor([2, 0])
    torch.testing.assert_close(
        fn.select(index).proposal().means, fn.proposal().select(index).means, rtol=1e-4, atol=1e-6
    )


def test_proposal_depends_on_features_and_reference():
    head = make_head()
    same = head.propose(FEATS, BOXES, INDEX).means
    assert not torch.allclose(head.propose(FEATS, BOXES + 8, INDEX).means, same)
    assert not torch.allclose(head.propose([FEATS[0] + 1], BOXES, INDEX).means, same)
    broken = BOXES.clone()
    broken[0, 0] = torch.nan
    assert head.propose(FEATS, broken, INDEX).means.isfinite().all()


@pytest.mark.parametrize(("raw", "bound"), [(1e4, math.e), (-1e4, math.exp(-3))])
def test_spread_of_the_proposal_is_bounded_but_not_stuck(raw, bound):
    head = make_head().eval()
    bias = torch.nn.init.constant_(head.proposal[-1].log_sigmas[-1].bias, raw)
    log_sigmas = head.propose(FEATS, BOXES, INDEX).log_sigmas
    expected = bound * torch.tensor(REFERENCE_NOISE["sigmas"][0]).expand(3, 2, 4)
    torch.testing.assert_close(log_sigmas.exp(), expected)
    # Descent may lead back inside, at full speed, and no further out.
    inward = math.copysign(1.0, raw) * log_sigmas.sum()
    (gradient,) = torch.autograd.grad(inward, bias, retain_graph=True)
    torch.testing.assert_close(gradient, torch.full_like(bias, math.copysign(3.0, raw)))
    (gradient,) = torch.autograd.grad(-inward, bias)
    assert not gradient.any()


def test_bounds_may_stand_with_the_proposal_or_with_the_head():
    for cfg in ({"log_sigma_range": (-1, 2)}, {"proposal": {"log_sigma_range": (-1, 2)}}):
        proposal = {**PROPOSAL["proposal"], **cfg.get("proposal", {})}
        head = make_head(**{**cfg, "proposal": proposal})
        assert head.proposal[-1].log_sigma_range == (-1, 2)


def gradients(head, feats) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    head.loss(head.prepare(feats, detach=False), BOXES, INDEX, LABELS)["loss_energy"].backward()
    return {name: p.grad for name, p in head.named_parameters()}


def test_stop_gradients_of_the_joint_objective():
    """J_KL trains the proposal alone; trunk and maps learn as if it were not there."""
    feats = [FEATS[0].clone().requires_grad_()]
    with_proposal = gradients(make_head(), feats)
    trained = feats[0].grad.clone()
    feats[0].grad = None
    objective = {**PROPOSAL["objective"], "proposal_weight": 0.0}
    without = gradients(make_head(objective=objective), feats)
    assert trained.abs().sum() > 0
    torch.testing.assert_close(feats[0].grad, trained)
    for name, gradient in with_proposal.items():
        if name.startswith("proposal."):
            assert gradient.abs().sum() > 0, name
            assert without[name].abs().sum() == 0, name
        else:
            torch.testing.assert_close(gradient, without[name])


def test_no_objects_give_a_zero_connected_to_every_parameter():
    head = make_head()
    none = torch.zeros(0, 4)
    losses = head.loss(head.prepare(FEATS), none, INDEX[:0], LABELS[:0])
    assert losses["loss_energy"] == 0
    losses["loss_energy"].backward()
    assert all(p.grad is not None for p in head.parameters())


class Recorder:
    """Replaces the objective and records its arguments."""

    def __call__(self, fn, targets, avg_factor=None):
        self.fn, self.targets = fn, targets
        return {"loss": targets.sum() * 0}


@pytest.mark.parametrize(
    "target_noise", [None, dict(type="GaussianMixtureNoise", sigmas=[[0.01] * 4])]
)
def test_references_are_jittered_annotations(target_noise):
    head = make_head(target_noise=target_noise)
    head.objective = recorder = Recorder()
    boxes = BOXES[:1].expand(4000, 4)
    head.loss(head.prepare(FEATS), boxes, INDEX[:1].expand(4000), LABELS[:1].expand(4000))
    reference, targets = recorder.fn.reference, recorder.targets
    spread = encode_boxes(reference, boxes).std(0)
    torch.testing.assert_close(
        spread, torch.tensor(REFERENCE_NOISE["sigmas"][0]), rtol=0.06, atol=0
    )
    off = encode_boxes(decode_boxes(targets, reference), boxes).std(0)
    expected = torch.full((4,), 0.01 if target_noise else 0.0)
    torch.testing.assert_close(off, expected, rtol=0.06, atol=1e-5)


@pytest.mark.parametrize(("proposal_weight", "nll_weight"), [(1.0, 0.0), (0.5, 0.5)])
def test_the_proposal_learns_where_the_object_is(proposal_weight, nll_weight):
    """One box that the features show: q corrects the reference, and its ESS is larger."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    box = torch.tensor([[30.0, 40, 90, 80]])
    inside = ((x * 4 > 30) & (x * 4 < 90) & (y * 4 > 40) & (y * 4 < 80)).float()
    feats = [torch.stack([inside, x / 32, y / 32, torch.ones_like(x)])[None]]
    head = make_head(
        class_agnostic=True,
        proposal=dict(num_components=2, hidden=32),
        target_noise=dict(type="GaussianMixtureNoise", sigmas=[[0.02] * 4]),
        objective=dict(
            type="ProposalObjective",
            num_noise=63,
            proposal_weight=proposal_weight,
            nll_weight=nll_weight,
        ),
    )
    optimiser = torch.optim.Adam(head.parameters(), 3e-3)
    n = 8
    index = labels = torch.zeros(n, dtype=torch.long)
    history = []
    for _ in range(250):
        losses = head.loss(feats, box.expand(n, 4), index, labels)
        optimiser.zero_grad()
        losses["loss_energy"].backward()
        optimiser.step()
        history.append([losses[f"energy_{name}"].item() for name in ("proposal_nll", "ess_ratio")])
    start, end = torch.tensor(history[:10]).mean(0), torch.tensor(history[-20:]).mean(0)
    assert end[0] < start[0] - 1.0  # the truth is likelier by more than e
    assert end[1] > 1.2 * start[1]
    head.eval()
    reference = head._jitter(box.expand(200, 4), head.reference_noise)
    truth = encode_boxes(box.expand(200, 4), reference)
    q = head.propose(feats, reference, torch.zeros(200, dtype=torch.long))
    assert (q.mean - truth).square().mean() < 0.75 * truth.square().mean()


def test_in_a_detector():
    cfg = ebm_cfg(refiner=dict(type="ProposalRefiner", num_samples=8))
    cfg["energy_head"] = {**cfg["energy_head"], **PROPOSAL}
    model = build(cfg).train()
    data = batch(model, training=True)
    losses = model.loss(data["inputs"], data["data_samples"])
    losses["loss_energy"].backward()
    assert losses["energy_ess_ratio"] > 0
    assert all(p.grad is not None for p in model.energy_head.parameters())
    assert all(p.grad is None for p in model.detector.parameters())


RESIDUAL = dict(
    residual=True,
    objective=dict(type="ProposalObjective", num_noise=15, proposal_weight=0.0, nll_weight=1.0),
)


def test_residual_density_is_the_proposal_times_exp_g():
    """f(u | x, r) = log q(u | x, r) + g(x, decode(u, r))."""
    head, plain = make_head(**RESIDUAL).eval(), make_head().eval()
    u = 0.1 * torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(2))
    fn = head.log_density_fn(FEATS, BOXES, INDEX, LABELS)
    q = plain.propose(FEATS, BOXES, INDEX)
    g = plain.log_density_fn(FEATS, BOXES, INDEX, LABELS)(u)
    torch.testing.assert_close(fn(u), q.log_prob(u) + g)
    index = torch.tensor([2, 0])
    torch.testing.assert_close(fn.select(index)(u[index]), fn(u)[index], rtol=1e-4, atol=1e-5)
    torch.nn.init.zeros_(head.fc_energy.weight)
    torch.testing.assert_close(fn(u), q.log_prob(u))


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, 1e30])
def test_residual_density_of_a_broken_box_is_no_density(broken):
    head = make_head(**RESIDUAL).eval()
    fn = head.log_density_fn(FEATS, BOXES, INDEX, LABELS)
    u = torch.zeros(3, 2, 4)
    u[1, 0, 2] = broken
    u.requires_grad_()
    f = fn(u)
    assert f[1, 0] == -torch.inf
    assert f.isfinite().sum() == 5
    (gradient,) = torch.autograd.grad(f[f.isfinite()].sum(), u)
    assert gradient[f.isfinite()].isfinite().all()


def test_residual_density_in_inference_mode_can_be_climbed():
    head = make_head(**RESIDUAL).eval()
    with torch.inference_mode():
        feats = head.prepare([feat * 1 for feat in FEATS])
        fn = head.log_density_fn(feats, BOXES * 1, INDEX, LABELS)
        result = gradient_ascent(fn, torch.zeros(3, 4), 1e-4, 3)
        start = evaluate_only(fn, torch.zeros(3, 4)).log_density
    assert (result.log_density >= start).all()
    assert (result.accepted > 0).any()


def test_the_correction_learns_from_nce_and_the_proposal_from_the_labels():
    feats = [FEATS[0].clone().requires_grad_()]
    joint = gradients(make_head(**RESIDUAL), feats)
    heavier = {**RESIDUAL["objective"], "nll_weight": 2.0}
    other = gradients(make_head(**{**RESIDUAL, "objective": heavier}), feats)
    for name, gradient in joint.items():
        assert gradient.abs().sum() > 0, name
        expected = 2 * gradient if name.startswith("proposal.") else gradient
        torch.testing.assert_close(other[name], expected)


@pytest.mark.parametrize("residual", [{}, RESIDUAL])
@pytest.mark.parametrize("avg_factor", [None, 6.0])
def test_several_references_are_a_mean(residual, avg_factor):
    """The loss with R references of each object has the expectation of the loss with one."""
    head = make_head(num_references=4, **residual).eval()
    head.objective = recorder = Recorder()
    head.loss(head.prepare(FEATS), BOXES, INDEX, LABELS)
    assert recorder.fn.reference.shape == recorder.targets.shape == (12, 4)
    torch.testing.assert_close(
        decode_boxes(recorder.targets, recorder.fn.reference), BOXES.repeat_interleave(4, 0)
    )
    assert recorder.fn.labels.tolist() == LABELS.repeat_interleave(4).tolist()

    def loss(references: int, repeats: int) -> float:
        head = make_head(num_references=references, **residual).eval()
        many = [x.repeat_interleave(repeats, 0) for x in (BOXES, INDEX, LABELS)]
        factor = avg_factor and avg_factor * repeats
        out = head.loss(head.prepare(FEATS), *many, avg_factor=factor)
        return out["loss_energy"].item()

    torch.manual_seed(3)
    of_references = loss(references=300, repeats=1)
    of_objects = loss(references=1, repeats=300)
    assert of_references == pytest.approx(of_objects, rel=0.05)


def test_residual_head_refuses_what_would_not_train_it():
    with pytest.raises(ValueError, match="proposal_weight=1.0 and nll_weight=0.0"):
        make_head(residual=True)
    with pytest.raises(ValueError, match="num_references=0"):
        make_head(num_references=0)
