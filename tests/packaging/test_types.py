"""A user's script that imports the public names passes a type checker, and a wrong one does not."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="the type checker of requirements/test.txt is not installed")
REPO = Path(__file__).resolve().parents[2]

SCRIPT = """
import torch
from torch import Tensor

import ebm_mmdet
from ebm_mmdet import EBMBBoxHead, EBMDetector, GradientAscentRefiner, HighIoUCocoMetric
from ebm_mmdet.apis import detector_residuals, load_frozen_detector
from ebm_mmdet.energy import (
    GaussianMixtureNoise,
    LogDensityFn,
    NCEObjective,
    Objective,
    RefinementResult,
    Refiner,
    evaluate_only,
    gradient_ascent,
    nce_loss,
)
from ebm_mmdet.models import EnergyHead, decode_boxes
from ebm_ops import prroi_pool, rotated_grid_pool


def f(y: Tensor) -> Tensor:
    return -y.square().sum(-1)


fn: LogDensityFn = f
objective: Objective = NCEObjective(GaussianMixtureNoise([0.1, 0.2], dim=4), num_noise=16)
losses: dict[str, Tensor] = objective(fn, torch.zeros(3, 4))
result: RefinementResult = gradient_ascent(fn, torch.ones(3, 4), 0.1, 5)
refiners: list[Refiner] = [evaluate_only, GradientAscentRefiner(step_size=0.1)]
head: type[EnergyHead] = EBMBBoxHead
boxes: Tensor = decode_boxes(result.y, torch.rand(3, 4))
pooled: Tensor = prroi_pool(torch.zeros(1, 3, 8, 8), torch.zeros(1, 5), 7, 1.0)
version: str = ebm_mmdet.__version__
"""

# Each line is one mistake that the annotations are there to find.
MISTAKES = """
import torch
from ebm_mmdet import EBMDetektor
from ebm_mmdet.energy import GaussianMixtureNoise, NCEObjective, Refiner, gradient_ascent

NCEObjective(GaussianMixtureNoise([0.1], dim=4), num_samples=16)
gradient_ascent(lambda y: y.sum(-1), torch.zeros(1, 4), 0.1, "ten")
refiner: Refiner = lambda fn: fn
"""


def mypy(tmp_path: Path, program: str) -> subprocess.CompletedProcess:
    (tmp_path / "script.py").write_text(program)
    # Of an installed package mypy reports no errors; of a clone that is not it would, without this.
    options = ["--follow-imports", "silent", "--cache-dir", str(tmp_path / "cache")]
    command = [sys.executable, "-m", "mypy", *options, "script.py"]
    return subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"MYPYPATH": f"{REPO}:{REPO / 'ops'}", "PATH": ""},
    )


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("mmdet"), reason="the public names include mmdet's base classes")
def test_a_type_checker_accepts_a_users_script(tmp_path):
    program = SCRIPT
    if find_spec("mmdet3d"):
        program += "from ebm_mmdet3d import EBM3DDetector, EBM3DRefineHead\n"
    done = mypy(tmp_path, program)
    assert done.returncode == 0, done.stdout + done.stderr
    done = mypy(tmp_path, MISTAKES)
    for line, complaint in ((3, "EBMDetektor"), (6, "num_samples"), (7, "str"), (8, "Refiner")):
        assert f"script.py:{line}: error" in done.stdout, done.stdout
        assert complaint in done.stdout


def test_every_package_says_that_it_is_typed():
    for package in ("ebm_mmdet", "ebm_mmdet3d", "ops/ebm_ops"):
        assert (REPO / package / "py.typed").is_file()
