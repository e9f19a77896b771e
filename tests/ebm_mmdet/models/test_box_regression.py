"""`regression=dict()`: a second output of the trunk that says where the object is."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from ebm_mmdet.apis.fitting.rivals import BoxRegressor
from ebm_mmdet.energy.host_reads import without_reads
from ebm_mmdet.models import EBMBBoxHead, GradientAscentRefiner, ProposalEBMBBoxHead
from ebm_mmdet.models.box_coding import decode_boxes, encode_boxes
from ebm_mmdet.models.heads.box_regression import paired_iou
from tests.ebm_mmdet.models.toys import batch, build, ebm_cfg, energy_head_cfg
from tests.tolerances import TOLERANCE

GT = torch.tensor([[10.0, 12.0, 40.0, 30.0], [20.0, 8.0, 28.0, 60.0], [4.0, 4.0, 50.0, 44.0]])
INDEX, LABELS = torch.tensor([0, 1, 1]), torch.tensor([2, 0, 1])
FIRST = dict(type="GradientAscentRefiner", num_steps=0, regression_steps=1)


def make_head(**settings) -> EBMBBoxHead:
    torch.manual_seed(0)
    cfg = energy_head_cfg(strides=(8, 16), feature_levels=(0, 1), pool_size=3, **settings)
    head = EBMBBoxHead(**{name: value for name, value in cfg.items() if name != "type"})
    torch.nn.init.normal_(head.fc_energy.weight, std=0.5)
    if head.regresses:
        torch.nn.init.normal_(head.regression.fc.weight, std=0.5)
    return head.eval()


def maps(images: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(images, 16, n, n, generator=generator) for n in (16, 8)]


def bound(head: EBMBBoxHead, boxes=GT):
    return head.log_density_fn(head.prepare(maps()), boxes, INDEX, LABELS)


def test_without_it_nothing_changes():
    plain, head = make_head(), make_head(regression=dict())
    assert not [name for name in plain.state_dict() if "regression" in name]
    missing = head.load_state_dict(plain.state_dict(), strict=False)
    assert set(missing.missing_keys) == {f"regression.{n}" for n in ("std", "fc.weight", "fc.bias")}
    assert not missing.unexpected_keys
    y = 0.1 * torch.randn(3, 5, 4)
    assert torch.equal(bound(plain)(y), bound(head)(y))
    assert not hasattr(bound(plain), "regress")
    torch.manual_seed(3)
    alone = plain.loss(plain.prepare(maps()), GT, INDEX, LABELS)
    torch.manual_seed(3)
    both = head.loss(head.prepare(maps()), GT, INDEX, LABELS)
    assert torch.equal(alone["loss_energy"], both["loss_energy"])
    assert set(both) == {*alone, "loss_regression"}


@pytest.mark.parametrize("rule", ["assign", "concat"])
@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("shift", [0.0, -0.5])
def test_a_step_leads_to_the_box_that_the_output_names(rule, agnostic, shift):
    """decode(y + η s(y), r) = decode(η δ(b, c), b) with b = decode(y, r)."""
    head = make_head(regression=dict(), level_rule=rule, class_agnostic=agnostic, roi_shift=shift)
    fn, y = bound(head), 0.2 * torch.randn(3, 5, 4)
    f, step = fn.regress(y)
    torch.testing.assert_close(f, fn(y))
    boxes = decode_boxes(y, GT[:, None])
    x = head.embed(fn.feats, boxes.flatten(0, 1), INDEX.repeat_interleave(5))
    rows = head.regression(x).unflatten(0, (3, 5))
    assert rows.shape == (3, 5, 1 if agnostic else 3, 4)
    assert rows.std() > 0.05
    column = [0, 0, 0] if agnostic else LABELS.tolist()
    delta = torch.stack([rows[n, :, c] for n, c in enumerate(column)])
    for eta in (1.0, 0.5):
        there = decode_boxes(y + eta * step, GT[:, None])
        torch.testing.assert_close(there, decode_boxes(eta * delta, boxes), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("std", [None, [0.05, 0.05, 0.1, 0.2]])
def test_the_loss_is_that_of_the_near_boxes_as_the_detector_draws_them(std):
    """Σ_k w_k Σ_d |δ - r| / σ_d with w ∝ N(r; 0, σ²) / q over IoU >= 0.5, or equal w."""
    head = make_head(regression=dict(loss_weight=2.0, residual_std=std))
    boxes = decode_boxes(0.2 * torch.randn(3, 9, 4), GT[:, None])
    found = 0.1 * torch.randn(3, 9, 4)
    sigma, total = head.regression.std, 0.0
    for n in range(3):
        near = [s for s in range(9) if paired_iou(boxes[n, s], GT[n]) >= 0.5]
        assert 1 < len(near) < 9
        weights, errors = [], []
        for s in near:
            residual = encode_boxes(GT[n], boxes[n, s])
            errors.append(((found[n, s] - residual).abs() / sigma).sum())
            weights.append(torch.ones(()))
            if std:
                p = torch.distributions.Normal(0, sigma).log_prob(residual).sum()
                q = head.objective.noise.log_prob(encode_boxes(boxes[n, s], GT[n]))
                weights[-1] = (p - q).exp()
        total += 2.0 * sum(w * e for w, e in zip(weights, errors)) / sum(weights)
    torch.testing.assert_close(head.regression.loss(found, boxes, GT), total / 3)
    torch.testing.assert_close(head.regression.loss(found, boxes, GT, avg_factor=6), total / 6)
    exact = encode_boxes(GT[:, None], boxes)
    assert head.regression.loss(exact, boxes, GT) == 0
    far = GT[:, None] + 1000.0
    assert head.regression.loss(found[:, :1], far, GT) == 0


def test_with_the_right_weights_the_optimum_shrinks_as_much_as_the_detector_is_precise():
    """A feature that says the residual with noise τ: the best linear δ has slope σ²/(σ² + τ²)."""
    head = make_head(regression=dict(residual_std=[0.03] * 4))
    generator = torch.Generator().manual_seed(0)
    offsets, _ = head.objective.noise.sample(1, 20000, generator)
    boxes = decode_boxes(offsets, GT[:1, None])
    residual = encode_boxes(GT[:1, None], boxes)
    seen = residual + 0.03 * torch.randn(residual.shape, generator=generator)
    slopes = torch.linspace(0.1, 1.0, 19)
    losses = torch.stack([head.regression.loss(a * seen, boxes, GT[:1]) for a in slopes])
    assert slopes[losses.argmin()] == pytest.approx(0.5, abs=0.051)


@pytest.mark.parametrize("count", [3, 1, 0])
@pytest.mark.parametrize("shared", [False, True])
def test_the_loss_reaches_every_parameter_and_not_the_maps(count, shared):
    noise = dict(type="GaussianMixtureNoise", sigmas=[0.05, 0.1], dim=4, shared=shared)
    objective = dict(type="NCEObjective", num_noise=7, noise=noise)
    head = make_head(regression=dict(), objective=objective).train()
    feats = [each.requires_grad_() for each in maps()]
    losses = head.loss(head.prepare(feats), GT[:count], INDEX[:count], LABELS[:count])
    sum(value for name, value in losses.items() if "loss" in name).backward()
    assert all(each.grad is not None for each in head.parameters())
    assert (head.regression.fc.weight.grad.abs().sum() > 0) == (count > 0)
    assert all(each.grad is None for each in feats)
    assert losses["loss_regression"].isfinite()


def test_its_scale_is_that_of_the_noise_and_travels_with_the_weights():
    head = make_head(regression=dict())
    spread = torch.tensor([0.075, 0.15, 0.3]).square().mean().sqrt()
    torch.testing.assert_close(head.regression.std, spread.expand(4))
    other = make_head(regression=dict(residual_std=[0.01, 0.02, 0.03, 0.04]))
    assert other.regression.std.tolist() == pytest.approx([0.01, 0.02, 0.03, 0.04])
    other.load_state_dict(head.state_dict())
    torch.testing.assert_close(other.regression.std, spread.expand(4))


@pytest.mark.parametrize(
    "objective",
    [
        dict(type="MLISObjective", num_noise=8),
        dict(type="KLDISObjective", num_samples=8),
        dict(type="MCMCObjective", step_size=0.01, num_steps=2, num_samples=4),
    ],
    ids=lambda each: each["type"],
)
def test_it_learns_where_any_objective_evaluates_f(objective):
    if "IS" in objective["type"]:
        noise = dict(type="GaussianMixtureNoise", sigmas=[0.05, 0.1], dim=4)
        objective = {**objective, "noise": noise}
    head = make_head(regression=dict(), objective=objective).train()
    loss = head.loss(head.prepare(maps()), GT, INDEX, LABELS)["loss_regression"]
    loss.backward()
    assert head.regression.fc.weight.grad.abs().sum() > 0


def test_a_region_scale_pools_a_larger_region_about_the_same_centre():
    boxes = torch.tensor([[10.0, 12, 40, 30], [20, 30, 20, 50], [30, 30, 10, 10]])
    index = torch.tensor([0, 1, 1])
    head, plain = make_head(region_scale=1.5), make_head()
    feats = head.prepare(maps())
    wide = boxes + torch.tensor([[-7.5, -4.5, 7.5, 4.5], [0, -5, 0, 5], [0, 0, 0, 0]])
    found, expected = head.pool(feats, boxes, index), plain.pool(feats, wide, index)
    # Both boxes lie on the finest level, with their margin and without.
    torch.testing.assert_close(found, expected)
    assert found[0].abs().sum() > 0
    assert not found[1:].any()
    with pytest.raises(ValueError, match="region_scale=0"):
        make_head(region_scale=0)


def test_it_learns_to_lead_to_the_object():
    """Maps that are the coordinates: after few steps, a moved box comes back most of the way."""
    grid = torch.linspace(-1, 1, 16)
    xs = torch.stack([grid.expand(16, 16), grid[:, None].expand(16, 16)])
    torch.manual_seed(0)
    noise = dict(type="GaussianMixtureNoise", sigmas=[0.1, 0.2], dim=4)
    head = EBMBBoxHead(
        1,
        dict(type="NCEObjective", num_noise=15, noise=noise),
        in_channels=2,
        strides=[8],
        fc_channels=[64],
        pool_size=3,
        regression=dict(),
    ).train()
    truth, zero = torch.tensor([[30.0, 40.0, 80.0, 90.0]]), torch.zeros(1, dtype=torch.long)
    feats = head.prepare([xs[None]])
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        losses = head.loss(feats, truth, zero, zero)
        (losses["loss_energy"] + losses["loss_regression"]).backward()
        optimizer.step()
    head.eval()
    moved = decode_boxes(0.1 * torch.randn(20, 4), truth)
    index = torch.zeros(20, dtype=torch.long)
    fn = head.log_density_fn(feats, moved, index, index)
    found = GradientAscentRefiner(num_steps=0, regression_steps=1)(fn, torch.zeros(20, 4))
    before, after = (
        encode_boxes(truth, each).abs().mean() for each in (moved, decode_boxes(found.y, moved))
    )
    assert after < 0.5 * before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_multiplied_in_float32(dtype):
    head = make_head(regression=dict())
    wanted = bound(head).regress(torch.zeros(3, 2, 4))
    found = bound(copy.deepcopy(head).to(dtype)).regress(torch.zeros(3, 2, 4))
    for one, other in zip(found, wanted):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, atol=0.02, rtol=0.05)


def test_autocast_leaves_the_loss_in_float32():
    head = make_head(regression=dict()).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = head.loss(head.prepare(maps()), GT, INDEX, LABELS)
    assert losses["loss_regression"].dtype == torch.float32


def test_boxes_that_are_not_finite_stay_and_the_others_move():
    head = make_head(regression=dict())
    boxes = GT.clone()
    boxes[1, 2] = torch.nan
    refiner = GradientAscentRefiner(num_steps=0, regression_steps=1)
    found = refiner(bound(head, boxes), torch.zeros(3, 4))
    alone = refiner(bound(head), torch.zeros(3, 4))
    assert not found.y[1].any()
    assert found.log_density[1] == -torch.inf
    for one, other in zip(found[:3], alone[:3]):
        torch.testing.assert_close(one[[0, 2]], other[[0, 2]], **TOLERANCE[torch.float32])
    flat = torch.tensor([[10.0, 10, 10, 30]]).expand(3, 4)
    assert refiner(bound(head, flat), torch.zeros(3, 4)).y.isfinite().all()


def regressing_cfg(name="retinanet", head=None, **settings):
    return ebm_cfg(name, head=dict(regression=dict(), **(head or {})), **settings)


def build_regressing(*args, **kwargs):
    model = build(regressing_cfg(*args, **kwargs))
    torch.nn.init.normal_(model.energy_head.regression.fc.weight, std=0.05)
    return model


def predicted(model):
    data = batch(model)
    with torch.no_grad():
        return [each.pred_instances for each in model.predict(*data.values(), rescale=True)]


@pytest.mark.parametrize("name", ["retinanet", "faster_rcnn"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        dict(min_score=0.5),
        dict(candidates=dict(type="EnergyGuidedNMS", score_thr=0.0, iou_threshold=0.5)),
    ],
    ids=["", "min_score", "candidates"],
)
def test_f_never_falls_in_a_detector(name, settings):
    model = build_regressing(name, refiner=FIRST, clip_boxes=False, **settings)
    if model.min_score:  # half of the boxes
        model.min_score = float(torch.cat([each.scores for each in predicted(model)]).median())
    first = predicted(model)
    model.refiner = None
    still = predicted(model)
    assert sum(int(each.accepted_steps.sum()) for each in first)
    for one, other in zip(first, still):
        assert (one.log_density >= other.log_density - 1e-4).all()
        stayed = one.accepted_steps == 0
        assert torch.equal(one.bboxes[stayed], other.bboxes[stayed])
        assert torch.equal(one.scores, other.scores)
        if model.min_score:
            assert stayed[one.scores < model.min_score].all()


def test_copies_and_files_keep_it():
    model = build_regressing(refiner=FIRST)
    wanted, file = predicted(model), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        for one, two in zip(predicted(other), wanted):
            assert torch.equal(one.bboxes, two.bboxes)


def test_a_graph_of_fixed_shapes_gives_the_same():
    head = make_head(regression=dict())
    refiner = GradientAscentRefiner(1e-3, 2, regression_steps=2)
    wanted = refiner(bound(head), torch.zeros(3, 4))
    with without_reads():
        found = refiner(bound(head), torch.zeros(3, 4))
    torch.testing.assert_close(found.y, wanted.y)


def test_messages():
    with pytest.raises(ValueError, match="regression_steps=1, but EBMBBoxHead has no regression"):
        build(ebm_cfg("retinanet", refiner=FIRST))
    noise = dict(type="GaussianMixtureNoise", sigmas=[0.05], dim=4)
    proposal = energy_head_cfg(
        proposal=dict(num_components=1),
        reference_noise=noise,
        objective=dict(type="ProposalObjective", num_noise=7),
        regression=dict(),
    )
    proposal.pop("type")
    with pytest.raises(ValueError, match="whose mean is a regression"):
        ProposalEBMBBoxHead(**proposal)
    with pytest.raises(ValueError, match="DSMObjective"):
        make_head(regression=dict(), objective=dict(type="DSMObjective", sigma=0.1))
    for wrong in (dict(residual_std=[0.1, 0.2]), dict(loss_weight=0.0)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            make_head(regression=wrong)
    chains = dict(type="MCMCObjective", step_size=0.01, num_steps=2, num_samples=4)
    with pytest.raises(ValueError, match="draws no boxes from a noise"):
        make_head(regression=dict(residual_std=[0.1] * 4), objective=chains)
    with pytest.raises(TypeError, match="weight"):
        make_head(regression=dict(weight=1.0))


def test_the_rival_does_not_learn_it_twice():
    cfg = energy_head_cfg(strides=(8, 16), feature_levels=(0, 1), regression=dict())
    assert not BoxRegressor(cfg).regresses
