"""Tests of the climb that is one CUDA graph, launch by launch in Triton's interpreter.

``test_plan.py`` runs them, in a process of their own with TRITON_INTERPRET=1. There, pooling
of five boxes takes seconds, so only one test pools with its kernels, and the others with the
operators of the CPU. The kernels of pooling have tests of their own.
"""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("these are run by test_plan.py", allow_module_level=True)

from ebm_mmdet.energy import gradient_ascent, with_gaussian_prior
from ebm_mmdet.models import EBMBBoxHead
from ebm_mmdet.models.fused_climb import climb as module
from ebm_mmdet.models.fused_climb import graphs as graphs_module
from ebm_mmdet.models.fused_climb import kernels
from ebm_mmdet.models.fused_climb import plan as plan_module
from ebm_mmdet.models.fused_climb.graphs import Graphs
from ebm_mmdet.models.fused_climb.map_buffers import MapBuffers
from ebm_mmdet.models.fused_climb.products import round_to_tf32
from ebm_ops import prroi_pool_levels
from lab.benchmarks._emulated_graph import rounded_log_density
from tests.ebm_mmdet.models.fused_climb.climb_boxes import BOXES, IMAGES, LABELS
from tests.ebm_mmdet.models.toys import energy_head_cfg

STEP, STEPS = (0.02, 0.03, 0.05, 0.04), 3
NAN, INF = float("nan"), float("inf")


POOLING = plan_module.pool_into, plan_module.grad_rois_into


def pool(maps, rois, levels, scales, size) -> torch.Tensor:
    maps = [each.float() for each in maps]
    return prroi_pool_levels(maps, rois, levels, size, scales).permute(0, 2, 3, 1)


def pool_into(pooled, maps, rois, levels, scales) -> None:
    pooled.copy_(pool(maps, rois, levels, scales, pooled.shape[1:3]))


def grad_rois_into(partial, grad, maps, rois, levels, scales) -> None:
    with torch.enable_grad():
        rois = rois.clone().requires_grad_()
        pooled = pool(maps, rois, levels, scales, grad.shape[1:3])
        partial.zero_()
        partial[:, 0] = torch.autograd.grad(pooled, rois, grad)[0]


@pytest.fixture(autouse=True)
def graphs(monkeypatch) -> Graphs:
    """Plans are repeated launch by launch; small numbers of boxes have plans too."""
    found = Graphs(make=lambda plan: plan.run)
    monkeypatch.setattr(module, "why_not_here", lambda *_: None)
    monkeypatch.setattr(graphs_module, "graphs_of", lambda *_: found)
    monkeypatch.setattr(graphs_module, "BUCKETS", (6, 12))
    monkeypatch.setattr(plan_module, "pool_into", pool_into)
    monkeypatch.setattr(plan_module, "grad_rois_into", grad_rois_into)
    return found


def make_head(**settings) -> EBMBBoxHead:
    settings = {
        "in_channels": 3,
        "pool_size": 2,
        "strides": [4, 8],
        "finest_scale": 10.0,
        **settings,
    }
    settings = energy_head_cfg(**{"fc_channels": [8, 7], **settings})
    torch.manual_seed(0)
    head = EBMBBoxHead(**{k: v for k, v in settings.items() if k != "type"})
    for layer in (*head.trunk, head.fc_energy):
        torch.nn.init.normal_(layer.weight, std=0.7)
        torch.nn.init.normal_(layer.bias, std=0.2)
    return head.eval()


def maps_of(head: EBMBBoxHead, rows: int = 48, columns: int = 64, seed: int = 1) -> list:
    g = torch.Generator().manual_seed(seed)
    shapes = [(2, 3, -(-rows // s), -(-columns // s)) for s in head.strides]
    with torch.no_grad():  # the projections of a head have gradients
        return head.prepare([torch.randn(shape, generator=g) for shape in shapes])


def function(head: EBMBBoxHead, boxes: torch.Tensor = BOXES, **maps):
    return head.log_density_fn(maps_of(head, **maps), boxes, IMAGES, LABELS)


def both(fn, y0: torch.Tensor, step=STEP, steps: int = STEPS, decay: float = 0.5, **options):
    """The loop's result, and that of the plan."""
    climb = {k: v for k, v in options.items() if k != "precision"}
    expected = gradient_ascent(fn, y0, step, steps, decay, **climb)
    return expected, module.fused_climb(fn, y0, step, steps, decay, **options)


def assert_same(expected, found) -> None:
    assert torch.equal(found.accepted, expected.accepted)
    torch.testing.assert_close(found.y, expected.y, rtol=0, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(found.log_density, expected.log_density, rtol=1e-5, atol=1e-5)
    assert all(a.dtype == b.dtype for a, b in zip(found[:3], expected[:3]))


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ({}, {}),
        (dict(roi_shift=-0.5, legacy_plus_one=True, region_scale=1.5, regression={}), {}),
        (dict(strides=[8], feature_levels=[0], class_agnostic=True), dict(tolerance=1e-2)),
        (dict(standardize=True, projection_channels=2), dict(acceleration="bb")),
    ],
    ids=["two levels", "shifted", "one level", "projected"],
)
def test_equals_the_loop(head, options):
    expected, found = both(function(make_head(**head)), torch.zeros(5, 4), **options)
    assert_same(expected, found)
    assert (found.y != 0).any()
    assert 0 < found.accepted.sum() < STEPS * 5


def test_equals_the_loop_with_the_kernels_of_pooling(monkeypatch):
    for name, kernel in zip(("pool_into", "grad_rois_into"), POOLING):
        monkeypatch.setattr(plan_module, name, kernel)
    monkeypatch.setattr(graphs_module, "BUCKETS", (3,))
    fn = function(make_head(strides=[8, 16], finest_scale=8.0, roi_shift=[-0.5, 0])).select(
        torch.tensor([0, 1])
    )
    y0 = torch.zeros(2, 4)
    expected = gradient_ascent(fn, y0, STEP, 2)
    assert_same(expected, module.fused_climb(fn, y0, STEP, 2, 0.5))
    assert (expected.y != 0).any(1).all()


@pytest.mark.parametrize("acceleration", [None, "bb"])
def test_equals_the_loop_with_a_prior_and_several_starts(acceleration):
    y0 = 0.1 * torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(2))
    std = torch.tensor([0.1, 0.15, 0.2, 0.1]) * torch.linspace(0.5, 1.5, 5)[:, None]
    fn = with_gaussian_prior(function(make_head()), y0[:, 0], std, temperature=0.3)
    # Two steps: a third is at the top, where it passes or fails by rounding.
    expected, found = both(fn, y0, std.square(), 2, acceleration=acceleration)
    assert_same(expected, found)
    assert found.y.shape == (5, 2, 4)
    assert found.accepted.sum() > 10


@pytest.mark.parametrize("precision", ["fp32", "bf16x2"])
def test_the_same_bits_in_new_tensors_whatever_ran_before(precision):
    head, y0 = make_head(), torch.zeros(5, 4)
    fn, other = function(head), function(head, seed=2)
    first, _, again = (
        module.fused_climb(each, y0, STEP, 2, 0.5, precision=precision) for each in (fn, other, fn)
    )
    for a, b in zip(first[:3], again[:3]):
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()


def test_boxes_without_value_or_area():
    boxes = torch.tensor(
        [
            [NAN, 4, 20, 17],
            [10, 2, INF, 40],
            [30, 9, 30, 12],
            [40, 30, 20, 20],
            [900, 900, 950, 950],
        ]
    )
    y0 = torch.zeros(5, 4)
    expected, found = both(function(make_head(), boxes), y0)
    assert_same(expected, found)
    assert torch.equal(
        found.log_density.isneginf(), torch.tensor([True, True, False, False, False])
    )
    assert torch.equal(found.y, y0)


@pytest.mark.parametrize("value", [NAN, INF, -INF, 200.0])
def test_starts_that_are_not_finite_stay(value):
    y0 = torch.zeros(5, 4)
    y0[1, 2], y0[3, 0] = value, value
    expected, found = both(function(make_head()), y0)
    assert_same(expected, found)
    assert found.accepted[0] > 0


def test_maps_that_are_not_finite():
    head = make_head()
    feats = maps_of(head)
    feats[0][0, :, 3:6, 2:4] = NAN
    expected, found = both(head.log_density_fn(feats, BOXES, IMAGES, LABELS), torch.zeros(5, 4))
    assert_same(expected, found)
    assert found.log_density[0].isneginf()


def test_no_steps_only_evaluate():
    expected, found = both(function(make_head()), torch.zeros(5, 4), steps=0)
    assert_same(expected, found)
    assert (found.accepted == 0).all()


def test_images_of_any_size_use_the_same_plan(graphs, monkeypatch):
    """The larger image has left nothing behind; and the largest so far makes room for itself."""
    head, y0 = make_head(), torch.zeros(5, 4)
    monkeypatch.setattr(MapBuffers, "CELLS", 8)
    counts, plans = [], set()
    for rows, columns in ((48, 64), (20, 36), (48, 64), (72, 40), (20, 36)):
        fn = function(head, rows=rows, columns=columns, seed=rows)
        assert_same(gradient_ascent(fn, y0, STEP, 1), module.fused_climb(fn, y0, STEP, 1, 0.5))
        plans |= {id(each.plan) for each in graphs._recorded.values()}
        counts.append(graphs._maps[torch.float32].sizes[1:3])
        assert len(graphs) == 1
    assert counts == [(16, 16)] * 3 + [(24, 16)] * 2
    assert len(plans) == 2


def test_changed_weights_are_read(graphs):
    """Also those that were changed without a new version number, or lie elsewhere now."""
    head, y0 = make_head(), torch.zeros(5, 4)
    fn = function(head)
    for change in (
        lambda weight: weight.data.mul_(0.5),
        lambda weight: setattr(weight, "data", weight.data + 0.1),
        lambda weight: setattr(weight, "data", weight.data.half()),
    ):
        before = module.fused_climb(fn, y0, STEP, 1, 0.5)
        for parameter in (*head.trunk.parameters(), *head.fc_energy.parameters()):
            change(parameter)
        found = module.fused_climb(fn, y0, STEP, 1, 0.5)
        assert_same(gradient_ascent(fn, y0, STEP, 1), found)
        assert not torch.equal(found.log_density, before.log_density)


@pytest.mark.parametrize("precision", ["tf32", "bf16x2"])
def test_lower_precisions_gain_as_much(precision):
    head, y0 = make_head(fc_channels=[16, 16]), torch.zeros(5, 4)
    fn = function(head)
    expected, found = both(fn, y0, precision=precision)
    start, end = (fn(y.unsqueeze(1)).squeeze(1) for y in (y0, found.y))
    gain = (end - start).sum() / (expected.log_density - start).sum()
    assert 0.95 < gain < 1.05
    assert not torch.equal(found.y, expected.y)


@pytest.mark.parametrize("precision", ["tf32", "bf16x2"])
def test_precisions_are_those_that_the_lab_emulates(precision):
    """`tools/lab/benchmarks/precision.py` says by them what a precision costs in AP."""
    fn, y0 = function(make_head(fc_channels=[16, 16])), torch.zeros(5, 4)
    emulated = rounded_log_density(fn, precision)
    expected, exact = (gradient_ascent(each, y0, STEP, 2) for each in (emulated, fn))
    found = module.fused_climb(fn, y0, STEP, 2, 0.5, precision=precision)
    assert torch.equal(found.accepted, expected.accepted)
    torch.testing.assert_close(found.y, expected.y, rtol=0, atol=1e-5)
    # Sums in another order are rounded to another of two neighbours, once more in each layer.
    torch.testing.assert_close(found.log_density, expected.log_density, rtol=0, atol=2e-4)
    assert (expected.y - exact.y).abs().max() > 1e-4
    assert (expected.log_density - exact.log_density).abs().max() > 1e-3


def test_differences_of_f_survive_bfloat16():
    """f is that of rounded weights; over short ways, its differences are those of float32."""
    head = make_head()
    fn = function(head)
    ends = 1e-3 * torch.randn(5, 8, 4, generator=torch.Generator().manual_seed(0))
    y0 = torch.cat([torch.zeros(5, 1, 4), ends], 1)[:, :2]
    differences = []
    for precision in ("fp32", "bf16x2"):
        f = module.fused_climb(fn, y0, STEP, 0, 0.5, precision=precision).log_density
        differences.append(f[:, 1:] - f[:, :1])
    exact, rounded = differences
    assert (rounded - exact).abs().max() < 0.05 * exact.abs().max()


def test_tf32_has_ten_bits():
    x = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-11, -1 - 2**-12, 3e38, INF, NAN, 0.0])
    wanted = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-10, -1.0, 3e38, INF, NAN, 0.0])
    torch.testing.assert_close(round_to_tf32(x), wanted, rtol=5e-4, atol=0, equal_nan=True)
    assert torch.equal(round_to_tf32(x)[:4], wanted[:4])


def test_exponentials_near_zero_keep_their_digits():
    x = torch.cat([torch.logspace(-30, 1.9, 40), -torch.logspace(-30, 3, 40), torch.zeros(1)])
    out = torch.empty_like(x)
    _write_expm1[(len(x),)](x, out)
    torch.testing.assert_close(out, torch.expm1(x.double()).float(), rtol=3e-7, atol=0)


@kernels.triton.jit
def _write_expm1(x, out):
    n = kernels.tl.program_id(0)
    kernels.tl.store(out + n, kernels._expm1(kernels.tl.load(x + n)))
