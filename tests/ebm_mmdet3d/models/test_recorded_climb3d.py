"""A climb in 3D as one CUDA graph: what would be recorded does what the loop does."""

from __future__ import annotations

import pytest
import torch

from ebm_mmdet.energy import gradient_ascent
from ebm_mmdet.models import EnergyHead, GradientAscentRefiner
from ebm_mmdet.models.fused_climb import climb as module
from ebm_mmdet3d.models import EBM3DRefineHead
from tests.ebm_mmdet.models.device_work import DeviceWork

pytest.importorskip("triton")

from ebm_mmdet.models.fused_climb import graphs as graphs_module
from ebm_mmdet.models.fused_climb.map_buffers import MapBuffers
from ebm_mmdet.models.fused_climb.recorded_loop import LoopRecipe

BOXES, STEP = 20, [0.01] * 7


def make_head(**settings) -> EBM3DRefineHead:
    noise = dict(type="GaussianMixtureNoise", sigmas=[[0.1] * 7], dim=7)
    torch.manual_seed(0)
    head = EBM3DRefineHead(
        num_classes=3,
        objective=dict(type="NCEObjective", noise=noise),
        in_channels=8,
        fc_channels=(32, 32),
        **settings,
    )
    torch.nn.init.normal_(head.fc_energy.weight, std=0.5)
    return head.eval()


def function(head: EBM3DRefineHead, rows: int = 40, columns: int = 50):
    g = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, head.map_channels, rows, columns, generator=g)]
    # Some of the boxes reach beyond the map.
    place = torch.rand(BOXES, 2, generator=g) * torch.tensor([21.0, 17.0])
    rest = torch.rand(BOXES, 5, generator=g) * torch.tensor([1.0, 1.0, 1.0, 1.0, 6.0])
    boxes = torch.cat([place + torch.tensor([0.0, -40.0]), rest], 1)
    boxes[:, 3:6] += torch.tensor([3.4, 1.2, 1.2])
    index = torch.arange(BOXES)
    return head.log_density_fn(head.prepare(maps), boxes, index % 2, index % 3)


@pytest.fixture
def launched(monkeypatch):
    """Graphs whose replay runs what would be recorded."""
    monkeypatch.setattr(module, "why_not_here", lambda *_: None)
    stand_in = (lambda plan: plan.run,)
    monkeypatch.setattr(graphs_module.Graphs.__init__, "__defaults__", stand_in)
    return graphs_module


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ({}, {}),
        (dict(point_heights=True, standardize=True), dict(acceleration="bb")),
        (dict(regression={}, samples_per_bin=2, act_cfg=dict(type="SiLU")), dict(tolerance=1e-3)),
        ({}, dict(num_starts=3, start_std=0.1)),
        ({}, dict(prior=dict(std="per_box", scale=0.4))),
    ],
    ids=["plain", "heights", "several samples", "several starts", "covariances"],
)
def test_equals_the_loop(launched, head, options):
    fn, y0 = function(make_head(**head)), torch.zeros(BOXES, 7)
    covariance = torch.diag_embed(torch.full((BOXES, 7), 0.02))
    settings = dict(step_size=STEP, num_steps=6, **options)
    if "regression" in head:
        settings["regression_steps"] = 1
    expected, found = (
        GradientAscentRefiner(**settings, cuda_graph=switch)(fn, y0, covariance=covariance)
        for switch in (False, True)
    )
    assert len(launched.graphs_of(fn.head, y0.device)) == 1
    assert torch.equal(found.accepted, expected.accepted)
    torch.testing.assert_close(found.y, expected.y, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.log_density, expected.log_density, rtol=1e-5, atol=1e-5)
    assert (found.y != 0).any(1).sum() > BOXES // 2


def test_maps_of_any_size_use_the_same_plan(launched):
    """The larger map has left nothing behind in its buffer."""
    head, y0 = make_head(), torch.zeros(BOXES, 7)
    for rows, columns in ((40, 50), (30, 40), (40, 50)):
        fn = function(head, rows, columns)
        expected = gradient_ascent(fn, y0, STEP, 2)
        found = module.fused_climb(fn, y0, STEP, 2, 0.5)
        torch.testing.assert_close(found.y, expected.y, rtol=0, atol=1e-5)
    assert len(launched.graphs_of(head, y0.device)) == 1


@pytest.mark.parametrize("prior", ["none", "covariance"])
def test_nothing_is_read_and_nothing_comes_from_the_host(monkeypatch, prior):
    """On the device ``meta``, on which a read is an error. The first run keeps what it sends."""
    monkeypatch.setattr(EnergyHead, "check_targets", lambda *_: None)
    head, work = make_head().to("meta"), DeviceWork()
    maps = MapBuffers([torch.zeros(1, 8, 40, 50, device="meta")], torch.float32)
    plan = LoopRecipe(128, 7, 10, 0.5, None, 0.0, prior, 1.0, "fp32").plan(head, maps, [])
    with work, torch.no_grad():
        plan.run()
        assert not +work.waits
        work.from_host.clear()
        plan.run()
    assert not +work.waits
    assert not +work.from_host


def test_a_pool_without_the_mark_is_not_recorded(launched):
    class Head(EBM3DRefineHead):
        def pool(self, feats, boxes, batch_index):
            return super().pool(feats, boxes, batch_index)

    head = make_head()
    head.__class__ = Head
    assert module.fused_climb(function(head), torch.zeros(BOXES, 7), STEP, 2, 0.5) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_graph_equals_the_loop_on_a_gpu():
    here, head = function(make_head()), make_head().cuda()
    moved = [each.cuda() for each in (here.reference, here.batch_index, here.labels)]
    fn = type(here)(head, [each.cuda() for each in here.feats], *moved)
    y0 = torch.zeros(BOXES, 7, device="cuda")
    expected = gradient_ascent(fn, y0, STEP, 6)
    found, again = (module.fused_climb(fn, y0, STEP, 6, 0.5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(found[:3], again[:3]))
    close = (found.y - expected.y).abs().amax(1) <= 1e-5
    assert close.float().mean() >= 0.9  # a step that nearly fails may fail
