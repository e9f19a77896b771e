"""EBM3DRefineHead: the paper's numbers, values, gradients, degenerate boxes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

from mmdet3d.registry import MODELS
from mmengine.registry import init_default_scope

from ebm_mmdet.energy import GaussianMixtureNoise
from ebm_ops import rotated_grid_pool
from tests.ebm_mmdet3d.models.refine_head_toys import INDEX, LABELS, fn_of, make_head, make_maps
from tests.ebm_mmdet3d.models.toys import CELL, GRID, ORIGIN, SIGMAS, boxes, head_cfg

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
