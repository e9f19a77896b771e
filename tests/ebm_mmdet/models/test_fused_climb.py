"""The climb that is one CUDA graph: where it is used, what it would launch, and that it compiles.

That its launches do what the loop does is tested by ``fused_climb_interpreted.py``.
"""

from __future__ import annotations

import copy
import gc
import importlib
import io
import os
import pickle
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from ebm_mmdet.energy import gradient_ascent, with_gaussian_prior
from ebm_mmdet.energy.host_reads import without_reads
from ebm_mmdet.models import GradientAscentRefiner
from ebm_mmdet.models.fused_climb import climb as module
from ebm_mmdet.models.fused_climb import suitability
from ebm_mmdet.models.fused_climb.suitability import why_not_here, why_not_this
from ebm_mmdet.models.heads.proposal_ebm_bbox_head import ResidualBoxLogDensity
from tests.ebm_mmdet.models.device_work import DeviceWork, _Launch
from tests.ebm_mmdet.models.test_device_work import (
    STEP,
    boxes_of_all_levels,
    feature_maps,
    make_head,
)

REPO = Path(__file__).resolve().parents[3]
COUNT = 5


def function(head=None, count: int = COUNT, **settings):
    head = head or make_head(**settings)
    zeros = torch.zeros(count, dtype=torch.int64)
    return head.log_density_fn(
        head.prepare(feature_maps("cpu")), boxes_of_all_levels(count), zeros, zeros
    )


@pytest.mark.slow
def test_launches_do_what_the_loop_does():
    """In Triton's interpreter, in a process of its own."""
    pytest.importorskip("triton")
    file = Path(__file__).with_name("fused_climb_interpreted.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", str(file)],
        cwd=REPO,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """The lines of the log from here on."""
    lines: list[str] = []
    suitability.say_once.cache_clear()
    monkeypatch.setattr(suitability, "print_log", lambda line, **options: lines.append(line))
    return lines


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


def residual():
    fn = function()
    return ResidualBoxLogDensity(fn.head, fn.feats, fn.reference, fn.batch_index, fn.labels)


UNSUITED = {
    "covariance": (
        lambda: with_gaussian_prior(
            function(), torch.zeros(4), 0.1 * torch.eye(4).expand(COUNT, 4, 4)
        ),
        "covariance",
    ),
    "function": (lambda: lambda y: -y.square().sum(-1), "f is a function"),
    "residual": (residual, "f is a ResidualBoxLogDensity"),
    "train mode": (lambda: function(make_head().train()), "train mode"),
    "smooth": (lambda: function(act_cfg=dict(type="SiLU")), "not linear, ReLU"),
    "three layers": (lambda: function(fc_channels=[8, 8, 8]), "not linear, ReLU"),
    "concat": (lambda: function(level_rule="concat"), "concat"),
    "hooks": (lambda: function(hooked()), "hooks"),
    "own pool": (lambda: function(with_own_pool()), "a pool of its own"),
    "gradients to maps": (of_many_maps, "the maps require gradients"),
    "rounded gradients": (lambda: function(gradient_precision="bf16"), "gradient_precision='bf16'"),
    "float64": (lambda: function(make_head().double()), "float64"),
    "many boxes": (lambda: function(count=513), "more than 512"),
}


@pytest.mark.parametrize("name", UNSUITED)
def test_the_loop_is_used_for(name, monkeypatch):
    make, reason = UNSUITED[name]
    fn = make()
    y0 = torch.zeros(513 if name == "many boxes" else COUNT, 4)
    assert reason in why_not_this(fn, y0)
    monkeypatch.setattr(module, "why_not_here", lambda *_: None)
    assert module.fused_climb(fn, y0, STEP, 2, 0.5) is None


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


@pytest.mark.parametrize(("precision", "launches"), [("fp32", 10), ("bf16x2", 12)])
def test_a_step_is_few_launches_and_no_wait(precision, launches, monkeypatch):
    """On the device ``meta``, on which a read is an error, with the Triton kernels counted."""
    pytest.importorskip("triton")
    from ebm_mmdet.models.fused_climb import kernels, plan
    from ebm_ops.prroi_pool import triton as pooling

    work, head = DeviceWork(), make_head().to("meta")
    feats = head.prepare(feature_maps("meta"))
    for owner, names in (
        (kernels, ("accept", "activate", "advance")),
        (pooling, ("_forward", "_grad_rois")),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, _Launch(work, name))
    counts = []
    for steps in (10, 0):
        recipe = plan.Recipe(128, steps, 0.5, False, 0.0, 1.0, precision)
        dtype = torch.bfloat16 if precision == "bf16x2" else torch.float32
        weights = plan.Weights(head, precision)
        climb = plan.ClimbPlan(recipe, plan.Layout.of(head), weights, plan.MapBuffers(feats, dtype))
        climb.maps.load(feats)
        work.operations.clear()
        with work:
            climb.run()
        # Only on other devices than a GPU, both factors of such a product are made float32 first.
        emulated = 2 * 2 * (2 * steps + 1) if precision == "bf16x2" else 0
        counts.append(work.operations.total() - emulated)
    assert not +work.waits
    assert counts[0] - counts[1] == 10 * launches


@pytest.fixture
def graphs(monkeypatch):
    """Graphs whose replay does nothing but pass on what was loaded, slowly."""
    pytest.importorskip("triton")
    from ebm_mmdet.models.fused_climb import graphs as graphs_module
    from ebm_mmdet.models.fused_climb import kernels

    def make(plan):
        def replay():
            time.sleep(0.01)
            plan.y.copy_(plan.inputs[:, kernels.REFERENCE : kernels.REFERENCE + 4])
            plan.f.copy_(plan.maps.flat.mean().expand(len(plan.f)))

        return replay

    monkeypatch.setattr(module, "why_not_here", lambda *_: None)
    monkeypatch.setattr(graphs_module.Graphs.__init__, "__defaults__", (make,))
    return graphs_module


@pytest.mark.parametrize("fails", ["warm-up", "capture", "end of the capture", None])
def test_after_a_recording_the_thread_has_its_own_stream(monkeypatch, fails):
    """Also where torch leaves its context early: else all that follows runs on another stream."""
    pytest.importorskip("triton")
    from ebm_mmdet.models.fused_climb import graphs as graphs_module

    streams, runs = [Mock(name="own"), Mock(name="side")], []

    @contextmanager
    def on(stream):
        before, streams[0] = streams[0], stream
        yield
        streams[0] = before

    @contextmanager
    def capture(graph, stream, capture_error_mode):
        streams[0] = stream  # and back, unless its end raises
        yield
        if fails == "end of the capture":
            raise RuntimeError("the capture was invalidated")
        streams[0] = own

    def run():
        runs.append(gc.isenabled())
        if (fails, len(runs)) in (("warm-up", 1), ("capture", 3)):
            raise RuntimeError("out of memory")

    own, side = streams
    fakes = dict(
        device=lambda device: nullcontext(),
        current_stream=lambda: streams[0],
        Stream=lambda: side,
        stream=on,
        CUDAGraph=Mock,
        graph=capture,
        set_stream=lambda stream: streams.__setitem__(0, stream),
    )
    for name, fake in fakes.items():
        monkeypatch.setattr(graphs_module.torch.cuda, name, fake)
    forgotten = Mock()
    monkeypatch.setattr(graphs_module, "_forget_workspaces", forgotten)
    monkeypatch.setattr(graphs_module, "products_in", lambda precision: nullcontext())
    plan = Mock(run=run)
    if fails:
        with pytest.raises(RuntimeError):
            graphs_module.record(plan)
    else:
        assert graphs_module.record(plan) is not None
        assert len(runs) == 3
        assert forgotten.call_count == 2
    assert streams[0] is own
    assert own.wait_stream.call_args.args == (side,)
    assert gc.isenabled()
    assert not any(runs)  # no garbage is collected meanwhile
    assert not graphs_module._recording.locked()


def test_a_few_plans_are_kept(graphs, monkeypatch):
    """Those that were used last; they share the copies of weights and maps."""
    monkeypatch.setattr(graphs.Graphs, "MOST", 2)
    fn, made = function(), []
    kept = graphs.graphs_of(fn.head, torch.device("cpu"))
    kept._make = lambda plan: made.append(plan.recipe.decay) or plan.inputs.zero_
    for decay in (0.5, 0.25, 0.5, 0.125, 0.5, 0.25):
        module.fused_climb(fn, torch.zeros(COUNT, 4), STEP, 0, decay)
        assert len(kept) <= 2
    assert made == [0.5, 0.25, 0.125, 0.25]
    plans = [found.plan for found in kept._recorded.values()]
    assert plans[0].weights is plans[1].weights
    assert plans[0].maps is plans[1].maps
    assert plans[0].inputs.shape[0] == 16


def test_fewer_boxes_after_many_leave_nothing(graphs):
    fn = function()
    for count in (COUNT, 2):
        few = fn.select(torch.arange(count))
        found = module.fused_climb(few, torch.zeros(count, 4), STEP, 1, 0.5)
        assert torch.equal(found.y, few.reference)
    (recorded,) = graphs.graphs_of(fn.head, torch.device("cpu"))._recorded.values()
    assert not recorded.plan.inputs[2:].any()


def test_threads_use_the_buffers_one_after_another(graphs):
    head = make_head()
    functions = [function(head) for _ in range(4)]
    for k, fn in enumerate(functions):
        fn.reference = fn.reference + k
        fn.feats = [feat * 0 + k for feat in fn.feats]
    found = [None] * 4

    def climb(k: int) -> None:
        for _ in range(3):
            found[k] = module.fused_climb(functions[k], torch.zeros(COUNT, 4), STEP, 1, 0.5)

    threads = [threading.Thread(target=climb, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, (fn, result) in enumerate(zip(functions, found)):
        assert torch.equal(result.y, fn.reference)
        torch.testing.assert_close(result.log_density, torch.full((COUNT,), float(k)))
    assert len(graphs.graphs_of(head, torch.device("cpu"))) == 1


def test_what_cannot_be_recorded_is_not_tried_again(graphs, said):
    def refuse(plan):
        tried.append(plan)
        raise RuntimeError("no driver\nand more")

    tried, fn = [], function()
    kept = graphs.graphs_of(fn.head, torch.device("cpu"))
    kept._make = refuse
    refiner = GradientAscentRefiner(STEP, 2, cuda_graph=True)
    for _ in range(2):
        found = refiner(fn, torch.zeros(COUNT, 4))
        assert torch.equal(found.y, gradient_ascent(fn, torch.zeros(COUNT, 4), STEP, 2).y)
    assert len(tried) == 1
    assert ["(RuntimeError: no driver)" in line for line in said] == [True]
    assert not kept._maps


def test_models_are_copied_and_saved_without_their_graphs(graphs):
    head, cpu = make_head(), torch.device("cpu")
    refiner = GradientAscentRefiner(STEP, 1, cuda_graph=True)
    refiner(function(head), torch.zeros(COUNT, 4))
    assert len(graphs.graphs_of(head, cpu)) == 1
    torch.save((head, refiner), io.BytesIO())
    for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert len(graphs.graphs_of(other, cpu)) == 0
    del other
    gc.collect()
    alive = len(graphs._of_heads)
    del head
    gc.collect()
    assert len(graphs._of_heads) == alive - 1


def test_steps_that_are_out_of_range_are_refused_as_by_the_loop(graphs):
    with pytest.raises(ValueError, match="finite and not negative"):
        module.fused_climb(function(), torch.zeros(COUNT, 4), -1.0, 2, 0.5)
    assert not len(graphs.graphs_of(function().head, torch.device("cpu")))


def test_beside_the_graph_a_climb_is_few_operations(graphs, monkeypatch):
    """Check of the settings, copies to the buffers and back; nothing waits."""
    work, head = DeviceWork(), make_head().to("meta")
    kept = graphs.graphs_of(head, torch.device("meta"))
    kept._make = lambda plan: lambda: None
    monkeypatch.setattr(type(head), "check_targets", lambda *_: None)
    zeros = torch.zeros(100, dtype=torch.int64, device="meta")
    boxes, y0 = boxes_of_all_levels(100).to("meta"), torch.zeros(100, 4, device="meta")
    fn = head.log_density_fn(head.prepare(feature_maps("meta")), boxes, zeros, zeros)
    for _ in range(2):
        work.operations.clear()
        with work:
            assert module.fused_climb(fn, y0, STEP, 10, 0.5) is not None
    assert len(kept) == 1
    assert not +work.waits
    assert work.operations.total() <= 20


KERNELS = {
    "advance": (
        ["*fp32"] * 6
        + ["*i32"] * 3
        + ["*fp32"] * 2
        + ["*i64", ("fp32",) * 3, ("fp32",) * 4]
        + ["fp32"] * 4
        + ["i32"],
        [
            dict(BEGIN=begin, BB=not begin, STOPS=not begin, LEVELS=4, LAST_PIXEL=begin, BLOCK=64)
            for begin in (True, False)
        ],
    ),
    "accept": (
        ["*fp32"] * 10 + ["*i32"] * 3 + ["*fp32", "*i64", "back"] + ["fp32"] * 2 + ["i32"] * 2,
        [
            dict(BEGIN=begin, BB=not begin, HALVES=halves, BLOCK=1024)
            for begin, halves in ((True, 1), (False, 1), (False, 2))
        ],
    ),
    "activate": (
        ["*fp32"] * 3 + ["back"] + ["i32"] * 2,
        [
            dict(ACTION="relu", HALVES=1, OUT_HALVES=1, BLOCK=1024),
            dict(ACTION="relu", HALVES=2, OUT_HALVES=2, BLOCK=1024),
            dict(ACTION="mask", HALVES=2, OUT_HALVES=2, BLOCK=1024),
            dict(ACTION="copy", HALVES=1, OUT_HALVES=2, BLOCK=1024),
            dict(ACTION="copy", HALVES=2, OUT_HALVES=1, BLOCK=1024),
        ],
    ),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_real_gpus(name, capability, tmp_path, monkeypatch):
    """To machine code, which needs no GPU."""
    triton = pytest.importorskip("triton")
    compiler = pytest.importorskip("triton.backends.compiler")
    from triton.compiler import ASTSource

    from ebm_mmdet.models.fused_climb import kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types, variants = KERNELS[name]
    function, target = getattr(kernels, name), compiler.GPUTarget("cuda", capability, 32)
    for constants in variants:
        halves = constants.get("OUT_HALVES", constants.get("HALVES"))
        kinds = ["*bf16" if halves == 2 else "*fp32" if kind == "back" else kind for kind in types]
        kinds = [new if old == "back" else old for new, old in zip(kinds, types)]
        signature = dict(
            zip(function.arg_names, [*kinds, *["constexpr"] * len(constants)], strict=True)
        )
        source = ASTSource(function, signature, constexprs=constants)
        options = {"num_warps": 4 if name == "activate" else 1}
        assert triton.compile(source, target=target, options=options).asm["cubin"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16x2"])
def test_graph_equals_the_loop_on_a_gpu(precision):
    head = make_head().cuda()
    feats = head.prepare(feature_maps("cuda"))
    zeros = torch.zeros(100, dtype=torch.int64, device="cuda")
    fn = head.log_density_fn(feats, boxes_of_all_levels(100).cuda(), zeros, zeros)
    y0 = torch.zeros(100, 4, device="cuda")
    expected = gradient_ascent(fn, y0, STEP, 10)
    found, again = (
        module.fused_climb(fn, y0, STEP, 10, 0.5, precision=precision) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(found[:3], again[:3]))
    start, end = (fn(y.unsqueeze(1)).squeeze(1) for y in (y0, found.y))
    gain, full = (end - start).mean(), (expected.log_density - start).mean()
    assert gain > 0.95 * full
    if precision == "fp32":
        close = (found.y - expected.y).abs().amax(1) <= 1e-5
        assert close.float().mean() >= 0.95  # a step that nearly fails may fail


def test_activation_of_another_kind_is_found():
    assert "not linear" in why_not_this(
        function(act_cfg=dict(type="LeakyReLU")), torch.zeros(COUNT, 4)
    )
    assert why_not_this(function(), torch.zeros(COUNT, 4)) is None
    assert isinstance(make_head().activation, nn.ReLU)
