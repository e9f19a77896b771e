"""What the fused climb would launch; what its launches do: `interpreted_launches.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ebm_mmdet.energy import gradient_ascent
from ebm_mmdet.models.fused_climb import climb as module
from tests.ebm_mmdet.models.device_work import DeviceWork, _Launch
from tests.ebm_mmdet.models.fused_climb.climb_toys import (
    STEP,
    boxes_of_all_levels,
    feature_maps,
    make_head,
)

REPO = Path(__file__).resolve().parents[4]


@pytest.mark.slow
def test_launches_do_what_the_loop_does():
    """In Triton's interpreter, in a process of its own."""
    pytest.importorskip("triton")
    file = Path(__file__).with_name("interpreted_launches.py")
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
