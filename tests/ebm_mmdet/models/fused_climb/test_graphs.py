"""Which graphs are made and kept; threads, copies, files; with a stand-in for the recording."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
from contextlib import contextmanager, nullcontext
from unittest.mock import Mock

import pytest
import torch

from ebm_mmdet.energy import gradient_ascent
from ebm_mmdet.models import GradientAscentRefiner
from ebm_mmdet.models.fused_climb import climb as module
from tests.ebm_mmdet.models.fused_climb.climb_toys import COUNT, STEP, function, make_head


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
