"""The regression of the head in 3D, and the scale on which bottom and height enter f."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import nn

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

from mmdet3d.registry import MODELS
from mmengine.registry import init_default_scope

from ebm_mmdet.models import GradientAscentRefiner
from ebm_mmdet3d.models.heads import EBM3DRefineHead
from tests.ebm_mmdet3d.models.toys import GRID, SIGMAS, boxes, head_cfg, noise_cfg

INDEX, LABELS = torch.tensor([0, 1, 1]), torch.tensor([0, 2, 1])


def make_head(**settings) -> EBM3DRefineHead:
    init_default_scope("mmdet3d")
    torch.manual_seed(0)
    head = MODELS.build(head_cfg(**settings))
    nn.init.normal_(head.fc_energy.weight, std=0.5)
    if head.regresses:
        nn.init.normal_(head.regression.fc.weight, std=0.5)
    return head.eval()


def make_maps():
    return [torch.randn(2, 8, *GRID, generator=torch.Generator().manual_seed(1))]


def bound(head, reference=None):
    reference = boxes(3) if reference is None else reference
    return head.log_density_fn(head.prepare(make_maps()), reference, INDEX, LABELS)


def turned(vector, angle):
    c, s = math.cos(angle), math.sin(angle)
    return torch.stack([c * vector[0] - s * vector[1], s * vector[0] + c * vector[1]])


def test_without_it_nothing_changes():
    plain, head = make_head(), make_head(regression=dict())
    assert not [name for name in plain.state_dict() if "regression" in name]
    missing = head.load_state_dict(plain.state_dict(), strict=False)
    assert set(missing.missing_keys) == {f"regression.{n}" for n in ("std", "fc.weight", "fc.bias")}
    y = 0.1 * torch.randn(3, 5, 7)
    assert torch.equal(bound(plain)(y), bound(head)(y))
    assert not hasattr(bound(plain), "regress")


@pytest.mark.parametrize("agnostic", [False, True])
def test_a_step_leads_to_the_box_that_the_output_names(agnostic):
    """The box at y + η s(y) lies at η δ from the box at y, δ in that box's own frame."""
    head = make_head(regression=dict(), class_agnostic=agnostic)
    fn, y = bound(head), 0.1 * torch.randn(3, 5, 7)
    f, step = fn.regress(y)
    torch.testing.assert_close(f, fn(y))
    at = boxes(3)[:, None] + y
    x = head.embed(fn.feats, at.flatten(0, 1), INDEX.repeat_interleave(5))
    rows = head.regression(x).unflatten(0, (3, 5))
    assert rows.shape == (3, 5, 1 if agnostic else 3, 7)
    assert rows.std() > 0.02
    for n in range(3):
        for s in range(5):
            delta = rows[n, s, 0 if agnostic else LABELS[n]]
            for eta in (1.0, 0.5):
                there = boxes(3)[n] + y[n, s] + eta * step[n, s]
                wanted = at[n, s] + eta * delta
                wanted[:2] = at[n, s, :2] + turned(eta * delta[:2], float(at[n, s, 6]))
                torch.testing.assert_close(there, wanted, atol=1e-4, rtol=1e-5)


def test_the_loss_is_zero_where_every_step_leads_to_the_annotation_however_it_is_turned():
    """δ = residual ⇔ y + s = y*, yaw up to full turns."""
    head = make_head(regression=dict(residual_std=[0.2, 0.1, 0.1, 0.3, 0.1, 0.1, 0.1]))
    truth = boxes(3)
    truth[:, 6] = torch.tensor([-math.pi + 0.01, 0.0, math.pi - 0.01])
    y = 0.1 * torch.randn(3, 9, 7)
    at = truth[:, None] + y
    at[..., 6] = (at[..., 6] + math.pi) % (2 * math.pi) - math.pi
    regression = head.regression
    exact = regression.residual(truth[:, None], at)
    assert exact[..., 6].abs().max() < 1, "the short way around"
    assert regression.loss(exact, at, truth) == 0
    assert regression.loss(exact + 0.01, at, truth) > 0
    there = at + regression.step(exact, y, at) - truth[:, None]
    there[..., 6] = torch.remainder(there[..., 6] + math.pi, 2 * math.pi) - math.pi
    torch.testing.assert_close(there, torch.zeros_like(there), atol=1e-5, rtol=0)


@pytest.mark.parametrize("std", [None, [0.2, 0.1, 0.1, 0.3, 0.1, 0.1, 0.05]])
def test_the_loss_weights_boxes_as_the_detector_draws_them(std):
    """Σ_k w_k Σ_d |δ - r| / σ_d with w ∝ N(r; 0, σ²) / q, or equal w."""
    head = make_head(regression=dict(residual_std=std))
    truth = boxes(3)
    offsets, log_q = head.objective.noise.sample(3, 6, torch.Generator().manual_seed(0))
    at = truth[:, None] + offsets
    found, sigma = 0.1 * torch.randn(3, 6, 7), head.regression.std
    if std is None:
        torch.testing.assert_close(sigma, torch.tensor(SIGMAS).square().mean(0).sqrt())
    residual, total = head.regression.residual(truth[:, None], at), 0.0
    for n in range(3):
        log_w = torch.zeros(6)
        if std:
            log_w = torch.distributions.Normal(0, sigma).log_prob(residual[n]).sum(-1) - log_q[n]
        errors = ((found[n] - residual[n]).abs() / sigma).sum(-1)
        total += (log_w.softmax(0) * errors).sum()
    torch.testing.assert_close(head.regression.loss(found, at, truth), total / 3)


@pytest.mark.parametrize("count", [3, 0])
@pytest.mark.parametrize("shared", [False, True])
def test_the_loss_reaches_every_parameter(count, shared):
    noise = {**noise_cfg(), "shared": shared}
    objective = dict(type="NCEObjective", num_noise=7, noise=noise)
    head = make_head(regression=dict(), objective=objective).train()
    feats = head.prepare(make_maps())
    losses = head.loss(feats, boxes(3)[:count], INDEX[:count], LABELS[:count])
    sum(value for name, value in losses.items() if "loss" in name).backward()
    assert all(each.grad is not None for each in head.parameters())
    assert (head.regression.fc.weight.grad.abs().sum() > 0) == (count > 0)


def test_refinement_by_it_brings_boxes_back_and_f_never_falls():
    near = dict(branch_center=(-1.5, 1.56), branch_scale=(0.2, 0.2))
    head, truth = make_head(num_classes=1, regression=dict(), **near).train(), boxes(3)
    optimizer, zero = torch.optim.Adam(head.parameters(), 2e-3), torch.zeros_like(LABELS)
    for _ in range(200):
        losses = head.loss(head.prepare(make_maps()), truth, INDEX, zero)
        optimizer.zero_grad()
        (losses["loss_energy"] + losses["loss_regression"]).backward()
        optimizer.step()
    noise = head.objective.noise
    start = noise.sample(3, 8, torch.Generator().manual_seed(3))[0].flatten(0, 1)
    reference = truth.repeat_interleave(8, 0) + start
    index = INDEX.repeat_interleave(8)
    fn = head.eval().log_density_fn(head.prepare(make_maps()), reference, index, index * 0)
    found = GradientAscentRefiner(num_steps=0, regression_steps=2)(fn, torch.zeros(24, 7))
    assert (found.log_density >= fn(torch.zeros(24, 1, 7)).squeeze(1)).all()
    left = (start + found.y).square().mean(0) / start.square().mean(0)
    # Length and width, which maps of noise tell least about, take longer.
    assert (left[[0, 1, 2, 5, 6]] < torch.tensor([0.2, 0.2, 0.9, 0.6, 0.7])).all()


def test_boxes_that_are_not_finite_stay():
    head, broken = make_head(regression=dict()), boxes(3)
    broken[1, 6] = torch.nan
    refiner = GradientAscentRefiner(num_steps=0, regression_steps=1)
    found = refiner(bound(head, broken), torch.zeros(3, 7))
    assert not found.y[1].any()
    assert found.log_density[1] == -torch.inf
    assert found.y[[0, 2]].isfinite().all()


def test_copies_files_and_autocast_keep_it():
    head, file = make_head(regression=dict(), branch_scale=(0.1, 0.2)), io.BytesIO()
    wanted = bound(head).regress(torch.zeros(3, 2, 7))
    torch.save(head, file)
    file.seek(0)
    for other in (copy.deepcopy(head), torch.load(file, weights_only=False)):
        for one, two in zip(bound(other).regress(torch.zeros(3, 2, 7)), wanted):
            assert torch.equal(one, two)
    with torch.autocast("cpu", torch.bfloat16):
        for one, two in zip(bound(head).regress(torch.zeros(3, 2, 7)), wanted):
            assert torch.equal(one, two)


def test_bottom_and_height_enter_as_v_minus_center_over_scale():
    """f(center + scale v) of the scaled head = f(v) of the paper's, in z and h alike."""
    paper = make_head()
    scaled = make_head(branch_center=(-1.5, 1.6), branch_scale=(0.1, 0.2))
    scaled.load_state_dict(paper.state_dict())
    # Bottoms and heights that neither head cuts off.
    v = boxes(3)
    v[:, 2], v[:, 5] = torch.tensor([-0.5, 0.2, 1.0]), torch.tensor([0.3, 0.9, 2.0])
    moved = v.clone()
    moved[:, 2], moved[:, 5] = -1.5 + 0.1 * v[:, 2], 1.6 + 0.2 * v[:, 5]
    zero = torch.zeros(3, 1, 7)
    torch.testing.assert_close(bound(scaled, moved)(zero), bound(paper, v)(zero))
    assert (bound(scaled, v)(zero) - bound(paper, v)(zero)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (dict(branch_scale=(0.1, 0.0)), r"branch_scale=\(0.1, 0.0\); give two positive"),
        (dict(branch_scale=(0.1,)), r"branch_scale=\(0.1,\); give two finite numbers"),
        (dict(branch_center=(0.0, math.nan)), "branch_center=.*nan.*two finite numbers"),
        (dict(regression=dict(residual_std=[0.1] * 4)), "expected 7 positive numbers"),
        (dict(regression=dict(weight=1.0)), "weight"),
    ],
)
def test_messages(settings, match):
    with pytest.raises((TypeError, ValueError), match=match):
        make_head(**settings)
