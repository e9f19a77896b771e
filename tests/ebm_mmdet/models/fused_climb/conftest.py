"""Fixtures of the tests of CUDA graphs."""

from __future__ import annotations

import time

import pytest

from ebm_mmdet.models.fused_climb import climb as module
from ebm_mmdet.models.fused_climb import suitability


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """The lines of the log from here on."""
    lines: list[str] = []
    suitability.say_once.cache_clear()
    suitability.say_not_fused_once.cache_clear()
    monkeypatch.setattr(suitability, "print_log", lambda line, **options: lines.append(line))
    return lines


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


@pytest.fixture
def launched(graphs, monkeypatch):
    """Graphs whose replay runs what would be recorded."""
    monkeypatch.setattr(graphs.Graphs.__init__, "__defaults__", (lambda plan: plan.run,))
    return graphs
