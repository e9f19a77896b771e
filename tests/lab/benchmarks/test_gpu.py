"""The checks for a machine with a GPU: they run in miniature, and what is wrong is found."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parents[3]
SCRIPT = REPO / "tools/lab/benchmarks/gpu.py"


@pytest.fixture
def gpu(monkeypatch):
    """The script as a module; it imports others from its folder."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from lab.benchmarks import gpu

    return gpu


@pytest.mark.slow
def test_all_kernels_are_right_in_miniature():
    pytest.importorskip("triton")
    environment = {**os.environ, "COLUMNS": "150"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--interpret"],
        cwd=REPO,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("prroi_pool, 2 map(s), float32: by maps", "bfloat16, into buffers",
                 "rotated_grid_pool, 2 samples", "climb of 2, bf16x2"):  # fmt: skip
        assert name in done.stdout
    for word in ("WRONG", "left out", "NO"):
        assert word not in done.stdout


@pytest.mark.parametrize(
    ("checks", "wrong"),
    [
        ([("a", 1e-5, 1e-4), ("b", -0.1, 0.0)], 0),
        ([("a", 1e-5, 1e-4), ("b", 2e-4, 1e-4)], 1),
        ([("a", math.nan, 1e-4)], 1),
        ([("a", 0.0, 1e-4, False)], 1),
        ([("a", 0.0, 1e-4), "fails", ("b", 0.0, 1e-4)], 1),
    ],
)
def test_what_is_wrong_sets_the_exit_status(gpu, checks, wrong, monkeypatch, capsys):
    def section(setting):
        for check in checks:
            if check == "fails":
                raise RuntimeError("no such launch")
            yield gpu.Check(*check)

    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(gpu, "SECTIONS", {"first": section, "second": lambda setting: iter(())})
    assert gpu.main(["--interpret"]) == wrong
    said = capsys.readouterr().out
    assert f"{wrong} wrong of" in said
    assert ("no such launch" in said) == ("fails" in checks)


def test_what_there_is_no_time_for_is_named(gpu, monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert gpu.main(["--interpret", "--budget", "0", "--only", "rotated", "climb"]) == 0
    said = capsys.readouterr().out
    assert said.count("left out") == 2
    assert "the rest of rotated" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_remedy_is_named(gpu, capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu.main([])
    assert "--interpret" in capsys.readouterr().err
