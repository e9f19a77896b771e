"""EBMBBoxHead: values, levels, gradients, degenerate boxes, loss."""

from __future__ import annotations

import copy

import pytest
import torch
from mmcv.ops import RoIAlign
from mmdet.registry import MODELS

from ebm_mmdet.energy import float32_linear
from ebm_mmdet.models import decode_boxes
from ebm_ops import prroi_pool
from tests.ebm_mmdet.models.toys import energy_head_cfg

STRIDES = (4, 8, 16, 32)


def make_head(**overrides):
    torch.manual_seed(0)
    head = MODELS.build(energy_head_cfg(**overrides))
    torch.nn.init.normal_(head.fc_energy.weight, std=0.5)
    return head.eval()


def make_maps(batch=2, channels=16, size=128, levels=4):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(batch, channels, size // s, size // s, generator=generator)
        for s in STRIDES[:levels]
    ]


def make_boxes(n, s=1):
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand(n, s, 2, generator=generator) * 60
    return torch.cat((corner, corner + 5 + torch.rand(n, s, 2, generator=generator) * 55), -1)


SHIFTS = [0.0, -0.5, [-0.5, 0.0, -0.25, 0.125]]
INDEX, LABELS = torch.tensor([0, 1, 1]), torch.tensor([0, 2, 1])


def by_hand(head, feats, box, image, label, level):
    stride = STRIDES[level]
    roi = torch.cat((torch.tensor([float(image)]), box + head.roi_shifts[level] * stride))[None]
    x = prroi_pool(feats[level], roi, 7, 1 / stride).flatten(1)
    for layer in head.trunk:
        x = layer(x).relu()
    return head.fc_energy(x)[0, label]


@pytest.mark.parametrize("roi_shift", SHIFTS)
def test_log_density_is_the_mlp_of_the_pooled_features_of_the_class(roi_shift):
    head, feats = make_head(roi_shift=roi_shift, finest_scale=16), make_maps()
    boxes = make_boxes(3, 5)
    f = head.log_density(head.prepare(feats), boxes, INDEX, LABELS)
    assert f.shape == (3, 5)
    assert f.dtype == torch.float32
    sizes = (boxes[..., 2:] - boxes[..., :2]).prod(-1).sqrt()
    levels = torch.log2(sizes / 16 + 1e-6).floor().clamp(0, 3).long()
    assert levels.unique().numel() > 1, "the test must cross levels"
    for n in range(3):
        for s in range(5):
            level = int(levels[n, s])
            expected = by_hand(head, feats, boxes[n, s], INDEX[n], LABELS[n], level)
            torch.testing.assert_close(f[n, s], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("roi_shift", SHIFTS)
def test_boxes_are_pooled_from_their_levels_in_their_order(roi_shift):
    """Bit for bit as level by level, for any size of box."""
    head = make_head(roi_shift=roi_shift, finest_scale=8)
    feats = head.prepare(make_maps())
    boxes = make_boxes(40).squeeze(1)
    boxes[3] = 0
    boxes[5, 2:] = boxes[5, :2] - 3
    boxes[7, 1] = torch.nan
    images, levels = torch.arange(40) % 2, head.assign_levels(boxes)
    assert len(levels.unique()) == len(STRIDES)
    assert levels[3] == levels[5] == 0
    assert levels[7] == 3
    pooled = head.pool(feats, boxes, images)
    for n in range(40):
        stride = STRIDES[levels[n]]
        shift = head.roi_shifts[levels[n]] * stride
        roi = torch.cat((images[n : n + 1], boxes[n] + shift))[None]
        alone = prroi_pool(feats[levels[n]], roi, 7, 1 / stride)
        assert torch.equal(pooled[n], alone.flatten())


def test_concat_pools_every_level():
    head, feats = make_head(level_rule="concat"), make_maps()
    boxes = make_boxes(3)
    f = head.log_density(head.prepare(feats), boxes, INDEX, LABELS)
    rois = torch.cat((INDEX[:, None].float(), boxes[:, 0]), 1)
    x = torch.cat([prroi_pool(m, rois, 7, 1 / s).flatten(1) for m, s in zip(feats, STRIDES)], 1)
    for layer in head.trunk:
        x = layer(x).relu()
    expected = head.fc_energy(x).gather(1, LABELS[:, None])
    torch.testing.assert_close(f, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("roi_shift", [[-0.5, 0.0, 0.0, -0.25], (0, -0.25, -0.125, -0.0625)])
def test_concat_reads_each_level_at_its_own_shift(roi_shift):
    """pool(x, y) = [pool_l(x, y + roi_shift_l stride_l)], for each level l."""
    head = make_head(level_rule="concat", roi_shift=roi_shift)
    boxes, feats = make_boxes(3)[:, 0], head.prepare(make_maps())
    found = head.pool(feats, boxes, INDEX).chunk(4, dim=1)
    for level, part in enumerate(found):
        shifted = boxes + roi_shift[level] * STRIDES[level]
        rois = torch.cat((INDEX[:, None].float(), shifted), 1)
        expected = prroi_pool(feats[level], rois, 7, 1 / STRIDES[level])
        assert torch.equal(part, expected.flatten(1))


def test_as_many_shifts_as_levels():
    with pytest.raises(ValueError, match=r"roi_shift=\[-0.5, 0.0\] for 4 levels; give one number"):
        make_head(roi_shift=[-0.5, 0])


def test_levels_may_have_different_numbers_of_bins():
    """pool(x, y) = [pool_1, ..., pool_L], each with the bins of its level."""
    settings = dict(strides=[4, 8, 16], level_rule="concat", region_scale=1.3, roi_shift=-0.25)
    head = make_head(pool_size=[6, 3, 1], **settings)
    assert head.trunk[0].in_features == 16 * (36 + 9 + 1)
    boxes, maps = make_boxes(3)[:, 0], make_maps(levels=3)
    found = head.pool(head.prepare(maps), boxes, INDEX).split([16 * 36, 16 * 9, 16], dim=1)
    for level, (size, part) in enumerate(zip((6, 3, 1), found)):
        alone = make_head(**{**settings, "strides": [STRIDES[level]]}, pool_size=size)
        assert torch.equal(part, alone.pool(alone.prepare(maps[level:]), boxes, INDEX))
    projected = make_head(pool_size=[6, 3, 1], projection_channels=5, **settings)
    assert projected.trunk[0].in_features == 5 * (36 + 9 + 1)
    feats = projected.train().prepare(maps)
    projected.loss(feats, boxes, INDEX, LABELS)["loss_energy"].backward()
    assert copy.deepcopy(projected).pool_sizes == (6, 3, 1)


@pytest.mark.parametrize(
    "settings",
    [
        dict(pool_size=[7, 7, 7, 7]),  # a box is read on one of the levels
        dict(pool_size=[7, 7], level_rule="concat"),
        dict(pool_size=[7, 7, 7, 0], level_rule="concat"),
        dict(pool_size=0),
    ],
)
def test_a_number_of_bins_that_does_not_fit_the_levels(settings):
    with pytest.raises(ValueError, match=r"pool_size=.* for 4 levels .* one per level with"):
        make_head(**settings)


@pytest.mark.parametrize(("roi_shift", "c"), [(0.0, 1.3), (-0.5, 0.8)])
def test_roi_shift_reads_where_the_docstring_says(roi_shift, c):
    """On a map of column numbers, a small box pools to the coordinate at which it is read."""
    settings = dict(strides=[8], in_channels=1, pool_size=1, level_rule="concat")
    head = make_head(roi_shift=roi_shift, **settings)
    columns = torch.arange(4.0).repeat(1, 1, 4, 1)

    def box(x):
        return torch.tensor([[x - 0.01, 16 - 0.01, x + 0.01, 16 + 0.01]])

    def read(x, feature_map=columns):
        return head.pool([feature_map], box(x), torch.tensor([0])).item()

    assert read(10.4) == pytest.approx(c, abs=1e-4)
    cells = [read((i - roi_shift) * 8 + 0.02) for i in (0, 1)]  # +0.02: the ramp has a kink at 0
    assert cells == pytest.approx([0, 1], abs=1e-2)
    weights = [read(10.4, (columns == i).float()) for i in range(3)]
    expected = {0.0: [0, 0.7, 0.3], -0.5: [0.2, 0.8, 0]}[roi_shift]
    assert weights == pytest.approx(expected, abs=1e-3)

    aligned = RoIAlign(1, 1 / 8, sampling_ratio=1, aligned=True)  # as in mmdet's RoI extractors
    seen_by_mmdet = aligned(columns, torch.cat((torch.zeros(1, 1), box(10.4)), 1)).item()
    assert seen_by_mmdet == pytest.approx(0.8, abs=1e-4)


def test_class_agnostic_ignores_labels():
    head, feats = make_head(class_agnostic=True), make_maps()
    args = (head.prepare(feats), make_boxes(3, 2), INDEX)
    assert torch.equal(head.log_density(*args, LABELS), head.log_density(*args, LABELS * 0 + 7))


def test_a_value_does_not_depend_on_the_rest_of_the_batch():
    head, feats = make_head(finest_scale=16), make_maps()
    feats, boxes = head.prepare(feats), make_boxes(3, 4)
    f = head.log_density(feats, boxes, INDEX, LABELS)
    for n in range(3):
        alone = head.log_density(feats, boxes[n : n + 1], INDEX[n : n + 1], LABELS[n : n + 1])
        torch.testing.assert_close(f[n : n + 1], alone, rtol=1e-5, atol=1e-5)


def test_gradient_reaches_boxes_on_every_level_and_not_the_features():
    head, feats = make_head(finest_scale=16), [m.requires_grad_() for m in make_maps()]
    fn = head.log_density_fn(head.prepare(feats), make_boxes(3)[:, 0], INDEX, LABELS)
    u = torch.zeros(3, 1, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(fn(u).sum(), u)
    assert (grad.abs().sum(-1) > 0).all()
    assert all(m.grad is None for m in feats)
    # Central differences in float32: f has some 1e-6 of rounding, which the step divides.
    step = 1e-3
    for d in range(4):
        e = torch.zeros(4)
        e[d] = step
        numeric = (fn(u.detach() + e) - fn(u.detach() - e)) / (2 * step)
        torch.testing.assert_close(grad[..., d], numeric, rtol=0.05, atol=0.02)


def test_select_is_the_function_of_a_subset():
    head = make_head()
    fn = head.log_density_fn(head.prepare(make_maps()), make_boxes(3)[:, 0], INDEX, LABELS)
    u = torch.randn(3, 2, 4) * 0.1
    picked = torch.tensor([2, 0])
    torch.testing.assert_close(fn.select(picked)(u[picked]), fn(u)[picked], rtol=1e-5, atol=1e-5)


NASTY = torch.tensor(
    [
        [10.0, 10, 10, 40],  # no width
        [30.0, 30, 10, 10],  # inverted
        [-500.0, -500, -400, -400],  # outside the map
        [-1e9, -1e9, 1e9, 1e9],  # huge
        [0.0, 0, 128, 128],
    ]
)


def test_every_finite_box_has_a_finite_value_and_gradient():
    head = make_head()
    n = len(NASTY)
    fn = head.log_density_fn(
        head.prepare(make_maps()), NASTY, torch.zeros(n).long(), torch.zeros(n).long()
    )
    u = torch.zeros(n, 1, 4, requires_grad=True)
    f = fn(u)
    (grad,) = torch.autograd.grad(f.sum(), u)
    assert torch.isfinite(f).all()
    assert torch.isfinite(grad).all()
    assert torch.equal(grad[:3], torch.zeros(3, 1, 4))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_box_that_is_not_finite_has_probability_zero(value):
    head = make_head()
    boxes = make_boxes(3)
    boxes[1, 0, 2] = value
    f = head.log_density(head.prepare(make_maps()), boxes, INDEX, LABELS)
    assert f[1, 0] == -float("inf")
    assert torch.isfinite(f[[0, 2]]).all()


def test_no_boxes():
    head, none = make_head(), torch.zeros(0).long()
    f = head.log_density(head.prepare(make_maps()), torch.zeros(0, 3, 4), none, none)
    assert f.shape == (0, 3)


def test_float32_under_autocast():
    head = make_head()
    with torch.autocast("cpu", torch.bfloat16):
        feats = head.prepare(make_maps())
        f = head.log_density(feats, make_boxes(3), INDEX, LABELS)
        losses = head.loss(feats, make_boxes(3)[:, 0], INDEX, LABELS)
    assert f.dtype == torch.float32
    assert losses["loss_energy"].dtype == torch.float32


def test_works_on_features_made_in_inference_mode():
    head = make_head()
    with torch.inference_mode():
        feats = head.prepare([m * 2 for m in make_maps()])
        fn = head.log_density_fn(feats, make_boxes(3)[:, 0] * 1, INDEX * 1, LABELS * 1)
    u = torch.zeros(3, 1, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(fn(u).sum(), u)
    assert grad.abs().sum() > 0


def test_loss_of_no_ground_truth_is_a_zero_connected_to_the_parameters():
    head, none = make_head().train(), torch.zeros(0).long()
    loss = head.loss(head.prepare(make_maps()), torch.zeros(0, 4), none, none)["loss_energy"]
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_avg_factor_divides_the_sum():
    head = make_head()
    feats, gt = head.prepare(make_maps()), make_boxes(3)[:, 0]

    def loss(avg_factor):
        torch.manual_seed(0)
        return head.loss(feats, gt, INDEX, LABELS, avg_factor=avg_factor)["loss_energy"]

    torch.testing.assert_close(loss(None) * 3, loss(1.0))


def test_training_separates_the_truth_from_noise():
    head, feats = make_head().train(), make_maps()
    gt = make_boxes(3)[:, 0]
    optimizer = torch.optim.Adam(head.parameters(), 1e-3)
    history = []
    for _ in range(60):
        loss = head.loss(head.prepare(feats), gt, INDEX, LABELS)["loss_energy"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert sum(history[-10:]) < 0.7 * sum(history[:10])
    fn = head.eval().log_density_fn(head.prepare(feats), gt, INDEX, LABELS)
    away = torch.tensor([0.3, 0.3, 0.0, 0.0])
    assert (fn(torch.zeros(3, 1, 4)) > fn(torch.zeros(3, 1, 4) + away)).all()


def test_standardize_gives_channels_zero_mean_and_unit_variance_of_training_maps():
    head = make_head(standardize=True).train()
    maps = [m * 5 + 3 for m in make_maps()]
    head.prepare(maps)
    for level in head.eval().prepare(maps):
        torch.testing.assert_close(level.mean((0, 2, 3)), torch.zeros(16), atol=1e-4, rtol=0)
        std = level.std((0, 2, 3), correction=0)
        torch.testing.assert_close(std, torch.ones(16), atol=1e-4, rtol=0)
    before = [b.clone() for b in head.buffers()]
    head.prepare([m * 100 for m in maps])  # eval mode: statistics stay
    assert all(torch.equal(a, b) for a, b in zip(before, head.buffers()))


def test_standardize_survives_a_batch_that_overflowed():
    head = make_head(standardize=True).train()
    head.prepare(make_maps())
    head.prepare([m * float("inf") for m in make_maps()])
    assert all(torch.isfinite(b).all() for b in head.buffers())


def test_levels_may_differ_in_channels_where_all_are_pooled():
    maps = [torch.randn(1, 3, 16, 16), torch.randn(1, 5, 8, 8)]
    settings = dict(strides=[4, 8], level_rule="concat", standardize=True)
    head = make_head(in_channels=[3, 5], **settings).eval()
    apart = [
        make_head(in_channels=c, strides=[s], level_rule="concat") for c, s in ((3, 4), (5, 8))
    ]
    boxes = torch.tensor([[4.0, 5, 40, 50]])
    pooled = head.pool(maps, boxes, torch.zeros(1, dtype=torch.long))
    expected = [h.pool([m], boxes, torch.zeros(1, dtype=torch.long)) for h, m in zip(apart, maps)]
    assert torch.equal(pooled, torch.cat(expected, dim=1))
    label = torch.zeros(1, dtype=torch.long)
    assert head.log_density(head.prepare(maps), boxes[None], label, label).shape == (1, 1)


def test_messages_name_value_and_remedy():
    with pytest.raises(ValueError, match="level_rule='nearest'.*'assign' or 'concat'"):
        make_head(level_rule="nearest")
    with pytest.raises(ValueError, match="2 feature_levels .* 4 strides"):
        make_head(feature_levels=[0, 1])
    head = make_head()
    with pytest.raises(ValueError, match="gives 2 maps"):
        head.prepare(make_maps(levels=2))
    with pytest.raises(ValueError, match=r"8 channels, expected 16 .*in_channels=\[8, 8, 8, 8\]"):
        head.prepare(make_maps(channels=8))
    with pytest.raises(ValueError, match="level_rule='assign'; give one number"):
        make_head(in_channels=[16, 16, 16, 8])
    with pytest.raises(ValueError, match=r"\[0, 7\], expected \[0, 2\]"):
        head.log_density(head.prepare(make_maps()), make_boxes(2), INDEX[:2], torch.tensor([0, 7]))


def test_decoded_reference_is_scored_exactly():
    head, boxes = make_head(), make_boxes(3)
    feats = head.prepare(make_maps())
    fn = head.log_density_fn(feats, boxes[:, 0], INDEX, LABELS)
    u = torch.randn(3, 4, 4) * 0.2
    direct = head.log_density(feats, decode_boxes(u, boxes), INDEX, LABELS)
    assert torch.equal(fn(u), direct)


def test_rounded_gradients_leave_f_and_move_boxes_the_same_way(monkeypatch):
    monkeypatch.setattr(float32_linear, "multiplies_bf16", lambda device_type: True)
    boxes, found = make_boxes(3), {}
    for precision in ("fp32", "bf16"):
        head = make_head(gradient_precision=precision)
        y = boxes.clone().requires_grad_()
        f = head.log_density(head.prepare(make_maps()), y, INDEX, LABELS)
        found[precision] = f.detach(), torch.autograd.grad(f.sum(), y)[0]
    assert torch.equal(found["fp32"][0], found["bf16"][0])
    exact, rounded = found["fp32"][1], found["bf16"][1]
    assert 0 < (rounded - exact).norm() < 0.02 * exact.norm()
