"""EBM3DRefineHead: the loss, and what training and refinement make of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

from mmdet3d.registry import MODELS, TASK_UTILS
from mmengine.registry import init_default_scope

from ebm_mmdet.energy import GaussianMixtureNoise, gradient_ascent, nce_loss
from tests.ebm_mmdet3d.models.refine_head_toys import INDEX, LABELS, fn_of, make_head, make_maps
from tests.ebm_mmdet3d.models.toys import GRID, SIGMAS, boxes, head_cfg, noise_cfg


@pytest.mark.parametrize("shared", [False, True])
def test_first_loss(shared):
    """At f = 0 and M = 128 the loss of a box is 19.34 with a standard deviation of 1.31."""
    objective = dict(type="NCEObjective", num_noise=128, noise=noise_cfg())
    head = make_head(objective=objective, shared=shared)
    nn.init.zeros_(head.fc_energy.weight)
    n = 100
    frames = 100 if shared else 1  # one draw for each box either way
    feats = head.prepare([torch.randn(frames, 8, *GRID)])
    torch.manual_seed(0)
    losses = head.loss(feats, boxes(n), torch.arange(n) % frames, torch.zeros(n).long())
    assert losses["loss_energy"].item() == pytest.approx(19.34, abs=0.4)
    init_default_scope("mmdet3d")
    fresh = MODELS.build(head_cfg(objective=objective))
    losses = fresh.loss(feats[:1], boxes(n), torch.arange(n) % frames, torch.zeros(n).long())
    assert losses["loss_energy"].item() == pytest.approx(19.3, abs=0.6)


def test_loss_of_no_ground_truth_is_a_zero_connected_to_the_parameters():
    none = torch.zeros(0).long()
    for shared in (False, True):
        head = make_head(shared=shared).train()
        loss = head.loss(head.prepare(make_maps()), torch.zeros(0, 7), none, none)["loss_energy"]
        assert loss.item() == 0
        loss.backward()
        assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


@pytest.mark.parametrize("shared", [False, True])
def test_avg_factor_divides_the_sum(shared):
    head = make_head(shared=shared)
    feats, gt = head.prepare(make_maps()), boxes(3)

    def loss(avg_factor):
        torch.manual_seed(0)
        return head.loss(feats, gt, INDEX, LABELS, avg_factor=avg_factor)["loss_energy"]

    torch.testing.assert_close(loss(None) * 3, loss(1.0))


class Recorder:
    """A log-density that keeps the points it is asked for."""

    def __init__(self, fn):
        self.fn, self.points = fn, []

    def __call__(self, y):
        self.points.append(y.detach())
        return self.fn(y)


@pytest.mark.parametrize("shared", [False, True])
def test_shared_noise_is_shared_within_a_frame_only(shared, monkeypatch):
    head = make_head(shared=shared)
    asked = []
    original = head.evaluate

    def spy(feats, many, batch_index, labels):
        asked.append((many.detach(), batch_index))
        return original(feats, many, batch_index, labels)

    monkeypatch.setattr(head, "evaluate", spy)
    gt, index = boxes(4), torch.tensor([0, 1, 1, 0])
    head.loss(head.prepare(make_maps()), gt, index, torch.zeros(4).long())
    points = torch.cat([many for many, _ in asked])
    order = torch.cat([frames for _, frames in asked])
    reference = gt if len(asked) == 1 else torch.cat([gt[index == 0], gt[index == 1]])
    offsets = points - reference[:, None]
    same = torch.tensor(
        [[torch.allclose(offsets[i], offsets[j], atol=1e-5) for j in range(4)] for i in range(4)]
    )
    expected = order[:, None] == order[None] if shared else torch.eye(4, dtype=torch.bool)
    assert torch.equal(same, expected)


def test_diagnostics_of_shared_noise_are_means_over_boxes():
    head = make_head(shared=True)
    nn.init.zeros_(head.fc_energy.weight)
    nn.init.constant_(head.fc_energy.bias, 2.0)
    losses = head.loss(head.prepare(make_maps()), boxes(3), INDEX, LABELS)
    assert set(losses) == {
        "loss_energy",
        "energy_accuracy",
        "energy_logit_max",
        "energy_log_density_gap",
    }
    assert losses["energy_log_density_gap"] == pytest.approx(0, abs=1e-6)
    assert 0 <= losses["energy_accuracy"] <= 1


def test_the_positive_of_nce_is_the_annotation_and_of_nceplus_is_near_it():
    for beta in (0.0, 0.1):
        objective = dict(type="NCEObjective", num_noise=8, beta=beta, noise=noise_cfg())
        head = make_head(objective=objective)
        fn = Recorder(fn_of(head))
        head.objective(fn, torch.zeros(3, 7))
        positive = fn.points[0][:, 0]
        assert (positive == 0).all() == (beta == 0)
        assert positive.abs().max() < 0.25


def test_loss_is_nce_as_published():
    """-log of the share of the target, with densities as products of exponentials, in float64."""
    noise = GaussianMixtureNoise(SIGMAS)
    offsets, _ = noise.sample(5, 128, torch.Generator().manual_seed(0), dtype=torch.float64)
    points = torch.cat((torch.zeros(5, 1, 7, dtype=torch.float64), offsets), dim=1)
    f = torch.randn(5, 129, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sigma = torch.tensor(SIGMAS, dtype=torch.float64)
    gauss = (-0.5 * (points[:, :, None] / sigma) ** 2).exp() / (sigma * math.sqrt(2 * math.pi))
    ratio = f.exp() / gauss.prod(-1).mean(-1)
    naive = -(ratio[:, 0] / ratio.sum(1)).log().mean()
    torch.testing.assert_close(nce_loss(f, noise.log_prob(points)), naive)


def test_loss_does_not_change_with_a_constant_added_to_f():
    head = make_head(num_classes=1)
    feats, losses = head.prepare(make_maps()), []
    for constant in (0.0, 30.0):
        nn.init.constant_(head.fc_energy.bias, constant)
        torch.manual_seed(0)
        losses.append(head.loss(feats, boxes(3), INDEX, LABELS * 0)["loss_energy"])
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)


def test_published_steps_reach_the_mode_of_the_smallest_noise():
    """Steps of 2e-4 in all dimensions: 0.05 to 0.82 of the variance, below 2 and so stable."""
    sigma, mode = torch.tensor(SIGMAS[0]), boxes(4)
    refiner = TASK_UTILS.build(
        dict(type="GradientAscentRefiner", step_size=[2e-4] * 7, num_steps=200)
    )
    result = refiner(lambda y: -0.5 * ((y - mode[:, None]) / sigma).square().sum(-1), mode + sigma)
    torch.testing.assert_close(result.y, mode, rtol=0, atol=1e-3)
    assert (result.accepted > 100).all()


def test_training_separates_the_truth_from_noise_and_refinement_brings_boxes_back():
    head, maps, gt = make_head(num_classes=1).train(), make_maps(), boxes(3)
    optimizer = torch.optim.Adam(head.parameters(), 2e-3)
    history = []
    zero = LABELS * 0
    for _ in range(150):
        loss = head.loss(head.prepare(maps), gt, INDEX, zero)["loss_energy"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert sum(history[-10:]) < 0.7 * sum(history[:10])
    fn = head.eval().log_density_fn(head.prepare(maps), gt, INDEX, zero)
    start = GaussianMixtureNoise(SIGMAS[:1]).sample(3, 8, torch.Generator().manual_seed(3))[0]
    result = gradient_ascent(fn, start, 2e-4, 10)
    scale = torch.tensor(SIGMAS[0])
    assert (result.y / scale).square().mean() < 0.8 * (start / scale).square().mean()
