"""Where a climb is one CUDA graph, where it has the loop's operations, and where it cannot be."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import pytest
import torch

from ebm_mmdet.energy import with_gaussian_prior
from ebm_mmdet.energy.host_reads import without_reads
from ebm_mmdet.models import GradientAscentRefiner
from ebm_mmdet.models.flip_mean import FlipMean
from ebm_mmdet.models.fused_climb import climb as module
from ebm_mmdet.models.fused_climb import suitability
from ebm_mmdet.models.fused_climb.suitability import (
    why_not_fused,
    why_not_here,
    why_not_recorded,
)
from ebm_mmdet.models.heads.proposal_ebm_bbox_head import ResidualBoxLogDensity
from tests.ebm_mmdet.models.fused_climb.climb_toys import (
    COUNT,
    STEP,
    boxes_of_all_levels,
    feature_maps,
    function,
    make_head,
)


def test_off_by_default_and_on_a_cpu_the_loop_is_used(said):
    """With one line in the log for each reason, however often."""
    fn, y0 = function(), torch.zeros(COUNT, 4)
    assert not GradientAscentRefiner(STEP).cuda_graph
    for _ in range(2):
        expected, found = (
            GradientAscentRefiner(STEP, 3, cuda_graph=switch)(fn, y0) for switch in (False, True)
        )
        for a, b in zip(expected[:3], found[:3]):
            assert torch.equal(a, b)
    traced = GradientAscentRefiner(STEP, 3, cuda_graph=True, return_trace=True)(fn, y0)
    assert traced.trace is not None
    assert len(said) == 2
    assert "cuda_graph=True" in said[0]
    assert "the boxes are on cpu" in said[0]
    assert "a trace is asked for" in said[1]


def test_settings_without_effect_are_refused():
    with pytest.raises(ValueError, match="'fp16' is unknown; use 'fp32', 'tf32' or 'bf16x2'"):
        GradientAscentRefiner(STEP, cuda_graph=True, precision="fp16")
    with pytest.raises(ValueError, match="only with cuda_graph=True"):
        GradientAscentRefiner(STEP, precision="tf32")


def test_refiners_pickled_before_have_the_switch_off():
    refiner = GradientAscentRefiner(STEP)
    del refiner.__dict__["cuda_graph"], refiner.__dict__["precision"]
    assert refiner(function(), torch.zeros(COUNT, 4)).y.shape == (COUNT, 4)


def test_without_triton_the_package_imports_and_the_loop_is_used(monkeypatch):
    for name in list(sys.modules):
        if name.startswith("ebm_mmdet.models.fused_climb"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    fresh = importlib.import_module("ebm_mmdet.models.fused_climb.climb")
    assert fresh is not module
    assert fresh.fused_climb(function(), torch.zeros(COUNT, 4), STEP, 2, 0.5) is None
    assert "Triton" in fresh.why_not_here(SimpleNamespace(type="cuda"), "fp32")


def hooked():
    head = make_head()
    head.trunk[1].register_forward_hook(lambda *_: None)
    return head


def of_many_maps():
    head = make_head()
    feats = [feat.requires_grad_() for feat in head.prepare(feature_maps("cpu"))]
    zeros = torch.zeros(COUNT, dtype=torch.int64)
    return head.log_density_fn(feats, boxes_of_all_levels(COUNT), zeros, zeros)


def with_own_pool():
    head = make_head()
    head.pool = head.pool
    return head


def with_own_decoding():
    head = make_head()
    head.decode = lambda offsets, reference: type(head).decode(head, offsets, reference)
    return head


def residual():
    fn = function()
    return ResidualBoxLogDensity(fn.head, fn.feats, fn.reference, fn.batch_index, fn.labels)


def mean_of_views():
    head = make_head()
    flips = FlipMean(head, ("", "horizontal"), (1024, 1024))
    zeros = torch.zeros(COUNT, dtype=torch.int64)
    feats = flips.prepare([feature_maps("cpu"), feature_maps("cpu")])
    return flips.log_density_fn(feats, boxes_of_all_levels(COUNT), zeros, zeros)


UNSUITED = {
    "function": (lambda: lambda y: -y.square().sum(-1), "f is a function"),
    "residual": (residual, "f is a ResidualBoxLogDensity"),
    "views": (mean_of_views, "f is that of a FlipMean"),
    "train mode": (lambda: function(make_head().train()), "train mode"),
    "hooks": (lambda: function(hooked()), "hooks"),
    "own pool": (lambda: function(with_own_pool()), "a pool of its own"),
    "gradients to maps": (of_many_maps, "the maps require gradients"),
    "rounded gradients": (lambda: function(gradient_precision="bf16"), "gradient_precision='bf16'"),
    "float64": (lambda: function(make_head().double()), "float64"),
    "many boxes": (lambda: function(count=513), "more than 512"),
}


@pytest.mark.parametrize("name", UNSUITED)
def test_the_loop_is_used_for(name, monkeypatch, said):
    make, reason = UNSUITED[name]
    fn = make()
    y0 = torch.zeros(513 if name == "many boxes" else COUNT, 4)
    assert reason in why_not_recorded(fn, y0)
    monkeypatch.setattr(module, "why_not_here", lambda *_: None)
    assert module.fused_climb(fn, y0, STEP, 2, 0.5) is None
    (line,) = said
    assert reason in line


NOT_FUSED = {
    "covariance": (
        lambda: with_gaussian_prior(
            function(), torch.zeros(4), 0.1 * torch.eye(4).expand(COUNT, 4, 4)
        ),
        "covariance",
    ),
    "smooth": (lambda: function(act_cfg=dict(type="SiLU")), "not linear, ReLU"),
    "leaky": (lambda: function(act_cfg=dict(type="LeakyReLU")), "not linear, ReLU"),
    "three layers": (lambda: function(fc_channels=[8, 8, 8]), "not linear, ReLU"),
    "concat": (lambda: function(level_rule="concat"), "concat"),
    "own decoding": (lambda: function(with_own_decoding()), "a decode of its own"),
}


@pytest.mark.parametrize("name", NOT_FUSED)
def test_the_graph_has_the_operations_of_the_loop_for(name, launched, said):
    make, reason = NOT_FUSED[name]
    fn, y0 = make(), torch.zeros(COUNT, 4)
    assert why_not_recorded(fn, y0) is None
    assert reason in why_not_fused(fn)
    assert module.fused_climb(fn, y0, STEP, 0, 0.5, precision="bf16x2") is None
    for _ in range(2):
        assert module.fused_climb(fn, y0, STEP, 0, 0.5) is not None
    refused, line = said
    assert "precision='bf16x2' is for the fused kernels" in refused
    assert "not the fused kernels" in line
    assert all(reason in each for each in said)


def test_the_loop_is_used_for_a_graph_of_the_caller(monkeypatch):
    pytest.importorskip("triton")
    gpu, backend = SimpleNamespace(type="cuda"), SimpleNamespace(name="triton", why="no compiler")
    monkeypatch.setattr(suitability, "backend_info", lambda: {"cuda": backend})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert why_not_here(gpu, "bf16x2") is None
    with without_reads():
        assert "is making a graph" in why_not_here(gpu, "fp32")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert "is making a graph" in why_not_here(gpu, "fp32")
    backend.name = "reference"
    assert "no compiler" in why_not_here(gpu, "fp32")


def test_nothing_to_refine_is_no_reason_to_complain(said):
    assert module.fused_climb(function(count=0), torch.zeros(0, 4), STEP, 3, 0.5) is None
    assert not said


def test_the_kernels_take_the_usual_head():
    assert why_not_recorded(function(), torch.zeros(COUNT, 4)) is None
    assert why_not_fused(function()) is None
