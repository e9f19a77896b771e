"""Time that is used counts, also in a step of which nothing else is kept."""

from __future__ import annotations

from ebm_mmdet.apis.fitting.clock import Clock
from ebm_mmdet.apis.fitting.progress import Progress
from ebm_mmdet.files import read_json


def test_the_clock_counts_across_calls(tmp_path):
    now = [100.0]
    clock = Clock(tmp_path / "clock.json", 60, lambda: now[0])
    now[0] += 45
    clock.save()
    again = Clock(tmp_path / "clock.json", 60, lambda: now[0])
    now[0] += 10
    assert (again.used(), again.left()) == (55, 5)
    now[0] += 100
    assert again.left() == 0


def test_progress_keeps_the_time_of_a_long_step(tmp_path):
    now = [0.0]
    clock = Clock(tmp_path / "clock.json", 1e6, lambda: now[0])
    progress = Progress("measuring", lambda line: None, clock)
    for now[0] in (1.0, 29.0):
        progress(0.1)
        assert not clock.path.exists()
    for now[0], kept in ((31.0, 31.0), (60.0, 31.0), (62.0, 62.0)):
        progress(0.2)
        assert read_json(clock.path)["seconds"] == kept
