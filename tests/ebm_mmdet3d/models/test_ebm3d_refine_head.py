"""EBM3DRefineHead: the paper's numbers, values, gradients, degenerate boxes, loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

from mmdet3d.registry import MODELS, TASK_UTILS
from mmengine.registry import init_default_scope

from ebm_mmdet.energy import GaussianMixtureNoise, gradient_ascent, nce_loss
from ebm_ops import rotated_grid_pool
from tests.ebm_mmdet3d.models.toys import CELL, GRID, ORIGIN, SIGMAS, boxes, head_cfg, noise_cfg

INDEX, LABELS = torch.tensor([0, 1, 1]), torch.tensor([0, 2, 1])


def make_head(shared=False, **overrides):
    init_default_scope("mmdet3d")
    torch.manual_seed(0)
    cfg = head_cfg(**overrides)
    if shared:
        cfg["objective"]["noise"]["shared"] = True
    head = MODELS.build(cfg)
    nn.init.normal_(head.fc_energy.weight, std=0.5)
    return head.eval()


def make_maps(batch=2, channels=8):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, channels, *GRID, generator=generator)]


def fn_of(head, reference=None, maps=None):
    reference = boxes(3) if reference is None else reference
    index = INDEX[: len(reference)]
    return head.log_density_fn(
        head.prepare(maps or make_maps()), reference, index, LABELS[: len(reference)]
    )


# ------------------------------------------------------------------------- numbers of the paper


@pytest.mark.parametrize(
    ("channels", "total"),
    [(256, 8_425_057), (512, 15_765_089), (384, 12_095_073), (128, 4_755_041)],
)
def test_parameter_count(channels, total):
    head = make_head(num_classes=1, in_channels=channels, fc_channels=[1024, 1024])
    assert sum(p.numel() for p in head.parameters()) == total
    trunk = [sum(p.numel() for p in layer.parameters()) for layer in head.trunk]
    assert trunk == [(28 * channels + 32) * 1024 + 1024, 1_049_600]
    assert sum(p.numel() for p in head.fc_energy.parameters()) == 1025
    for branch in (head.fc_z, head.fc_h):
        assert sum(p.numel() for p in branch.parameters()) == 304


def test_initialisation():
    init_default_scope("mmdet3d")
    torch.manual_seed(0)
    head = MODELS.build(head_cfg(num_classes=1, in_channels=256, fc_channels=[1024, 1024]))
    for layer in head.trunk:  # Kaiming-uniform with a = 1: U(-b, b), b = sqrt(3 / fan_in)
        bound = (3 / layer.in_features) ** 0.5
        assert bound * 0.999 < layer.weight.abs().max() <= bound
        assert not layer.bias.any()
    assert head.fc_energy.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert not head.fc_energy.bias.any()
    for branch in (head.fc_z, head.fc_h):  # PyTorch's own: biases are not zero
        assert branch[0].bias.any()
        assert branch[2].weight.abs().max() <= 0.25


def test_log_q_of_the_target():
    log_q = GaussianMixtureNoise(SIGMAS).log_prob(torch.zeros(7, dtype=torch.float64)).item()
    density = sum(1 / math.prod(s * math.sqrt(2 * math.pi) for s in row) for row in SIGMAS) / 3
    assert log_q == pytest.approx(math.log(density), abs=1e-12)
    assert log_q == pytest.approx(16.0436638, abs=2e-6)


def test_log_q_of_samples():
    noise = GaussianMixtureNoise(SIGMAS)
    offsets, log_q = noise.sample(1, 50_000, torch.Generator().manual_seed(0))
    assert log_q.mean() == pytest.approx(8.03, abs=0.05)
    std = torch.tensor([0.1654] * 2 + [0.0827] * 4 + [0.0413])
    torch.testing.assert_close(offsets[0].std(0), std, rtol=0.02, atol=0)


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


# --------------------------------------------------------------------------------------- values


def by_hand(head, feat, box, frame, label):
    pooled = rotated_grid_pool(
        feat,
        box[None, [0, 1, 3, 4, 6]],
        torch.tensor([frame]),
        (4, 7),
        origin=ORIGIN,
        cell_size=CELL,
        pixel_offset=head.pixel_offset,
    )
    x = torch.cat((pooled.flatten(), head.fc_z(box[2:3]), head.fc_h(box[5:6])))
    for layer in head.trunk:
        x = layer(x).relu()
    return head.fc_energy(x)[label]


@pytest.mark.parametrize("pixel_offset", [0.0, 0.25])
def test_log_density_is_the_mlp_of_pooled_features_bottom_and_height(pixel_offset):
    head, maps = make_head(pixel_offset=pixel_offset), make_maps()
    many = boxes(15).view(3, 5, 7)
    f = head.log_density(head.prepare(maps), many, INDEX, LABELS)
    assert f.shape == (3, 5)
    assert f.dtype == torch.float32
    for n in range(3):
        for s in range(5):
            expected = by_hand(head, maps[0], many[n, s], INDEX[n], LABELS[n])
            torch.testing.assert_close(f[n, s], expected, rtol=1e-4, atol=1e-4)


def test_every_dimension_matters_and_the_gradient_is_that_of_central_differences():
    coarse = torch.randn(2, 8, 6, 7, generator=torch.Generator().manual_seed(1))
    smooth = nn.functional.interpolate(coarse, GRID, mode="bicubic")
    fn = fn_of(make_head(act_cfg=dict(type="SiLU")), maps=[smooth])
    u = torch.zeros(3, 1, 7, requires_grad=True)
    (grad,) = torch.autograd.grad(fn(u).sum(), u)
    assert (grad != 0).all()
    step = 2e-3
    for d in range(7):
        e = torch.zeros(7)
        e[d] = step
        numeric = (fn(u.detach() + e) - fn(u.detach() - e)) / (2 * step)
        torch.testing.assert_close(grad[..., d], numeric, rtol=0.05, atol=0.01)


def test_yaw_is_periodic_and_direction_matters():
    fn = fn_of(make_head())
    u = torch.zeros(3, 4, 7)
    u[:, 1, 6], u[:, 2, 6], u[:, 3, 6] = 2 * torch.pi, -2 * torch.pi, torch.pi
    f = fn(u)
    torch.testing.assert_close(f[:, 1:3], f[:, :1].expand(-1, 2), rtol=1e-3, atol=1e-3)
    assert (f[:, 3] - f[:, 0]).abs().min() > 1e-3, "samples are ordered from front to rear"


def test_sizes_are_floored_when_scored():
    head = make_head()
    tiny = boxes(3)
    tiny[:, 3:6] = torch.tensor([0.05, 0.05, 0.05])
    fn = fn_of(head, tiny)
    u = torch.zeros(3, 2, 7)
    u[:, 1, 3:6] = -0.3  # negative sizes
    f = fn(u)
    # Some processors round the rows of a product differently.
    torch.testing.assert_close(f[:, 0], f[:, 1], rtol=1e-5, atol=1e-5)
    assert (fn(-u)[:, 1] - f[:, 0]).abs().min() > 1e-3


def test_class_agnostic_ignores_labels_and_one_class_has_one_output():
    head = make_head(class_agnostic=True)
    args = (head.prepare(make_maps()), boxes(6).view(3, 2, 7), INDEX)
    assert torch.equal(head.log_density(*args, LABELS), head.log_density(*args, LABELS * 0 + 7))
    assert head.fc_energy.out_features == 1
    assert make_head(num_classes=3).fc_energy.out_features == 3


def test_a_value_does_not_depend_on_the_rest_of_the_batch():
    head = make_head()
    feats, many = head.prepare(make_maps()), boxes(12).view(3, 4, 7)
    f = head.log_density(feats, many, INDEX, LABELS)
    for n in range(3):
        alone = head.log_density(feats, many[n : n + 1], INDEX[n : n + 1], LABELS[n : n + 1])
        torch.testing.assert_close(f[n : n + 1], alone, rtol=1e-5, atol=1e-5)


def test_select_is_the_function_of_a_subset():
    fn = fn_of(make_head())
    u = torch.randn(3, 2, 7) * 0.1
    picked = torch.tensor([2, 0])
    torch.testing.assert_close(fn.select(picked)(u[picked]), fn(u)[picked], rtol=1e-5, atol=1e-5)


def test_standardize_gives_channels_zero_mean_and_unit_variance_of_training_maps():
    head = make_head(standardize=True).train()
    maps = [m * 5 + 3 for m in make_maps()]
    head.prepare(maps)
    (feat,) = head.eval().prepare(maps)
    torch.testing.assert_close(feat.mean((0, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(feat.var((0, 2, 3)), torch.ones(8), atol=1e-2, rtol=0)


# ----------------------------------------------------------------------------- degenerate boxes


def test_every_finite_box_has_a_finite_value_and_gradient():
    nasty = boxes(5)
    nasty[0, :2] = -500.0  # outside the map
    nasty[1, 3:6] = 0.0
    nasty[2, 3:6] = -4.0
    nasty[3, 3:5] = 1e6
    nasty[4, 6] = 1e4
    head = make_head()
    fn = head.log_density_fn(
        head.prepare(make_maps()), nasty, torch.zeros(5).long(), LABELS.new_zeros(5)
    )
    u = torch.zeros(5, 1, 7, requires_grad=True)
    f = fn(u)
    (grad,) = torch.autograd.grad(f.sum(), u)
    assert torch.isfinite(f).all()
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("column", range(7))
def test_a_box_that_is_not_finite_has_probability_zero_and_poisons_nothing(value, column):
    head = make_head()
    many = boxes(3)[:, None].clone()
    many[1, 0, column] = value
    f = head.log_density(head.prepare(make_maps()), many, INDEX, LABELS)
    assert f[1, 0] == -float("inf")
    assert torch.isfinite(f[[0, 2]]).all()
    f[[0, 2]].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


def test_no_boxes():
    head, none = make_head(), torch.zeros(0).long()
    f = head.log_density(head.prepare(make_maps()), torch.zeros(0, 3, 7), none, none)
    assert f.shape == (0, 3)


# ------------------------------------------------------------------------- precision and modes


def test_float32_under_autocast_with_the_same_values():
    head, many = make_head(), boxes(3)[:, None]
    exact = head.log_density(head.prepare(make_maps()), many, INDEX, LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        feats = head.prepare(make_maps())
        f = head.log_density(feats, many, INDEX, LABELS)
        losses = head.loss(feats, many[:, 0], INDEX, LABELS)
    assert f.dtype == losses["loss_energy"].dtype == torch.float32
    assert torch.equal(f, exact)
    assert torch.isfinite(losses["loss_energy"])


def test_half_precision_features_are_cast():
    head = make_head()
    feats = head.prepare([make_maps()[0].bfloat16()])
    assert feats[0].dtype == torch.float32
    assert torch.isfinite(head.log_density(feats, boxes(3)[:, None], INDEX, LABELS)).all()


def test_works_on_features_made_in_inference_mode():
    head = make_head()
    with torch.inference_mode():
        feats = head.prepare([m * 2 for m in make_maps()])
        fn = head.log_density_fn(feats, boxes(3) * 1, INDEX * 1, LABELS * 1)
    u = torch.zeros(3, 1, 7, requires_grad=True)
    (grad,) = torch.autograd.grad(fn(u).sum(), u)
    assert grad.abs().sum() > 0


def test_gradient_does_not_reach_frozen_features():
    head, maps = make_head(), [m.requires_grad_() for m in make_maps()]
    head.loss(head.prepare(maps), boxes(3), INDEX, LABELS)["loss_energy"].backward()
    assert maps[0].grad is None
    head.loss(head.prepare(maps, detach=False), boxes(3), INDEX, LABELS)["loss_energy"].backward()
    assert maps[0].grad.abs().sum() > 0


# ------------------------------------------------------------------------------------------ loss


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


def test_messages_name_value_and_remedy():
    head = make_head()
    with pytest.raises(ValueError, match="gives 0 maps"):
        head.prepare([])
    with pytest.raises(ValueError, match=r"\(2, 5, 40, 48\), expected \(B, 8, H, W\).*in_channels"):
        head.prepare(make_maps(channels=5))
    with pytest.raises(ValueError, match=r"\[0, 7\], expected \[0, 2\]"):
        head.log_density(
            head.prepare(make_maps()), boxes(2)[:, None], INDEX[:2], torch.tensor([0, 7])
        )
    with pytest.raises(ValueError, match="objective.noise.shared=True"):
        make_head(shared_noise=True)


def test_a_map_that_is_not_where_the_points_are():
    place = [0.0, -8.0, -3.0, 19.2, 8.0, 1.0]
    make_head().prepare(make_maps(), point_cloud_range=place)
    for wrong in (dict(cell_size=0.8), dict(origin=(0.0, -40.0)), dict(origin=(5.0, -8.0))):
        with pytest.raises(ValueError, match=r"set energy_head.origin to \(0.0, -8.0\).*to 0.4"):
            make_head(**wrong).prepare(make_maps(), point_cloud_range=place)


def test_bins_that_are_averaged():
    single, mean = make_head(), make_head(samples_per_bin=2)
    args = (boxes(3)[:, None], INDEX, LABELS)
    f = [head.log_density(head.prepare(make_maps()), *args) for head in (single, mean)]
    assert torch.isfinite(f[1]).all()
    assert not torch.equal(*f)


def test_trainable_boxes():
    candidates = boxes(4)
    candidates[1, 3] = 0.01
    candidates[2, 0] = float("nan")
    assert make_head().is_trainable_box(candidates).tolist() == [True, False, False, True]
