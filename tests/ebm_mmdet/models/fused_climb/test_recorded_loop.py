"""The graph with the operations of the loop: what would be recorded does what the loop does."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from ebm_mmdet.energy import gradient_ascent, with_gaussian_prior
from ebm_mmdet.models import EBMBBoxHead, EnergyHead, GradientAscentRefiner
from ebm_mmdet.models.fused_climb import climb as module
from ebm_mmdet.models.fused_climb.map_buffers import MapBuffers
from ebm_mmdet.models.fused_climb.recorded_loop import LoopRecipe
from ebm_mmdet.models.heads import BoxLogDensity
from tests.ebm_mmdet.models.device_work import DeviceWork
from tests.ebm_mmdet.models.fused_climb.climb_boxes import BOXES, IMAGES, LABELS
from tests.ebm_mmdet.models.toys import energy_head_cfg

pytest.importorskip("triton")

STEP, STEPS = (0.02, 0.03, 0.05, 0.04), 4
CONCAT = dict(level_rule="concat", in_channels=[3, 2], pool_size=[3, 2])


def make_head(**settings) -> EBMBBoxHead:
    usual = {"in_channels": 3, "pool_size": 2, "strides": [4, 8], "finest_scale": 10.0}
    settings = energy_head_cfg(**{**usual, "fc_channels": [8, 7], **settings})
    torch.manual_seed(0)
    head = EBMBBoxHead(**{k: v for k, v in settings.items() if k != "type"})
    for layer in (*head.trunk, head.fc_energy):
        torch.nn.init.normal_(layer.weight, std=0.7)
        torch.nn.init.normal_(layer.bias, std=0.2)
    return head.eval()


def function(head: EBMBBoxHead, rows: int = 48, columns: int = 64, seed: int = 1) -> BoxLogDensity:
    g = torch.Generator().manual_seed(seed)
    channels = head.in_channels if len(head.in_channels) > 1 else head.in_channels * 2
    maps = [
        torch.randn(2, c, -(-rows // s), -(-columns // s), generator=g)
        for c, s in zip(channels, head.strides)
    ]
    return head.log_density_fn(head.prepare(maps), BOXES, IMAGES, LABELS)


def assert_same(expected, found) -> None:
    assert torch.equal(found.accepted, expected.accepted)
    torch.testing.assert_close(found.y, expected.y, rtol=0, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(found.log_density, expected.log_density, rtol=1e-5, atol=1e-5)
    assert all(a.dtype == b.dtype for a, b in zip(found[:3], expected[:3]))


@pytest.mark.parametrize(
    ("head", "options"),
    [
        (CONCAT, {}),
        (dict(act_cfg=dict(type="SiLU"), roi_shift=-0.5), dict(acceleration="bb")),
        (dict(fc_channels=[8, 7, 6], class_agnostic=True, regression={}), dict(tolerance=1e-2)),
    ],
    ids=["concat", "smooth", "three layers"],
)
def test_equals_the_loop(launched, head, options):
    fn, y0 = function(make_head(**head)), torch.zeros(5, 4)
    y0[3, 1] = torch.nan
    expected = gradient_ascent(fn, y0, STEP, STEPS, **options)
    assert_same(expected, module.fused_climb(fn, y0, STEP, STEPS, 0.5, **options))
    assert 0 < expected.accepted.sum() < 5 * STEPS


@pytest.mark.parametrize("prior", ["one", "of each box", "covariance"])
def test_equals_the_loop_with_a_prior_and_several_starts(launched, prior):
    g = torch.Generator().manual_seed(2)
    y0 = 0.1 * torch.randn(5, 2, 4, generator=g)
    std = torch.tensor([0.1, 0.15, 0.2, 0.1])
    if prior != "one":
        std = std * torch.linspace(0.5, 1.5, 5)[:, None]
    step_size = std.square()
    if prior == "covariance":
        std = torch.diag_embed(std) + 0.02 * torch.randn(5, 4, 4, generator=g).tril(-1)
    fn = with_gaussian_prior(function(make_head(**CONCAT)), y0[:, 0], std, temperature=0.3)
    expected = gradient_ascent(fn, y0, step_size, 2)
    found = module.fused_climb(fn, y0, step_size, 2, 0.5)
    assert_same(expected, found)
    assert found.y.shape == (5, 2, 4)
    assert found.accepted.sum() > 10


def test_rows_of_no_box_are_finite(launched):
    """Else they cost time in some kernels, and hide what is wrong from who looks for NaN."""
    head = make_head(**CONCAT)
    for std in (torch.ones(4), torch.eye(4).expand(5, 4, 4)):
        fn = with_gaussian_prior(function(head), torch.zeros(4), std)
        module.fused_climb(fn, torch.zeros(5, 4), STEP, 1, 0.5)
    recorded = launched.graphs_of(head, torch.device("cpu"))._recorded.values()
    assert [each.plan.f.isfinite().all().item() for each in recorded] == [True, True]
    assert all((each.plan.y[5:] == 0).all() for each in recorded)


def test_images_of_any_size_use_the_same_plan(launched, monkeypatch):
    """The larger image has left nothing behind; and the largest so far makes room for itself."""
    head, y0, plans = make_head(**CONCAT), torch.zeros(5, 4), set()
    monkeypatch.setattr(MapBuffers, "CELLS", 8)
    graphs = launched.graphs_of(head, torch.device("cpu"))
    for rows, columns in ((48, 64), (20, 36), (48, 64), (72, 40), (20, 36)):
        fn = function(head, rows, columns, seed=rows)
        assert_same(gradient_ascent(fn, y0, STEP, 1), module.fused_climb(fn, y0, STEP, 1, 0.5))
        plans |= {id(each.plan) for each in graphs._recorded.values()}
        assert len(graphs) == 1
    assert len(plans) == 2


def once(plan):
    """A stand-in for a recording that repeats no Python: the numbers are those of its run."""
    plan.load(plan.inputs[:0])
    plan.run()
    return lambda: None


@pytest.mark.parametrize(
    "change",
    [
        lambda head: setattr(head, "region_scale", 1.5),
        lambda head: setattr(head, "roi_shift", -0.5),
        lambda head: setattr(head.fc_energy.weight, "data", head.fc_energy.weight.data + 1),
        lambda head: setattr(head.activation, "inplace", not head.activation.inplace),
    ],
    ids=["number", "another number", "weights elsewhere", "setting of a part"],
)
def test_what_python_decides_by_makes_a_new_recording(graphs, change):
    made, head = [], make_head(**CONCAT)
    graphs.graphs_of(head, torch.device("cpu"))._make = lambda p: made.append(p) or once(p)
    fn = function(head)
    for _ in range(2):
        module.fused_climb(fn, torch.zeros(5, 4), STEP, 1, 0.5)
    assert len(made) == 1
    change(head)
    module.fused_climb(fn, torch.zeros(5, 4), STEP, 1, 0.5)
    assert len(made) == 2


def test_a_recording_does_not_keep_its_head(launched):
    head = make_head(**CONCAT)
    module.fused_climb(function(head), torch.zeros(5, 4), STEP, 1, 0.5)
    plans = [e.plan for e in launched.graphs_of(head, torch.device("cpu"))._recorded.values()]
    assert len(plans) == 1
    gone = weakref.ref(head)
    del head
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("prior", ["none", "independent", "covariance"])
@pytest.mark.parametrize("settings", [CONCAT, dict(act_cfg=dict(type="SiLU"))], ids=["concat", ""])
def test_nothing_is_read_and_nothing_comes_from_the_host(monkeypatch, settings, prior):
    """On the device ``meta``, on which a read is an error."""
    monkeypatch.setattr(EnergyHead, "check_targets", lambda *_: None)
    head, work = make_head(**settings), DeviceWork()
    feats = [each.to("meta") for each in function(head).feats]
    recipe = LoopRecipe(128, 4, 10, 0.5, "bb", 1e-3, prior, 1.0, "fp32")
    plan = recipe.plan(head.to("meta"), MapBuffers(feats, torch.float32), [])
    with work, torch.no_grad():
        plan.run()
    assert work.operations.total() > 500
    assert not +work.waits
    assert not +work.from_host


def test_a_refiner_with_first_steps_and_a_checked_prior(launched):
    """The step sizes of a prior are checked once; by whom says `validate`."""
    fn, y0 = function(make_head(**CONCAT, regression={})), torch.zeros(5, 4)
    covariance = torch.diag_embed(torch.full((5, 4), 0.01))
    found = [
        GradientAscentRefiner(
            prior=dict(std="per_box"), num_steps=2, regression_steps=1, cuda_graph=switch
        )(fn, y0, covariance=covariance)
        for switch in (False, True)
    ]
    assert_same(*found)
    with pytest.raises(ValueError, match="finite and not negative"):
        module.fused_climb(fn, y0, -torch.ones(5, 4), 2, 0.5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("settings", [CONCAT, dict(act_cfg=dict(type="SiLU"))], ids=["concat", ""])
def test_graph_equals_the_loop_on_a_gpu(settings):
    head = make_head(**settings).cuda()
    here = function(make_head(**settings))
    moved = [each.cuda() for each in (here.reference, here.batch_index, here.labels)]
    fn, y0 = BoxLogDensity(head, [f.cuda() for f in here.feats], *moved), torch.zeros(5, 4).cuda()
    expected = gradient_ascent(fn, y0, STEP, STEPS)
    found, again = (module.fused_climb(fn, y0, STEP, STEPS, 0.5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(found[:3], again[:3]))
    close = (found.y - expected.y).abs().amax(1) <= 1e-5
    assert close.float().mean() >= 0.8  # a step that nearly fails may fail
