"""The mathematics and the operators need torch and nothing else: no mm* package, no compiler."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

PREAMBLE = """
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec

ABSENT = {"mmcv", "mmdet", "mmengine", "mmdet3d", "triton", "numba", "spconv"}

class BareFinder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = BareFinder
assert not any(find_spec(name) for name in ABSENT)
"""

ENERGY = """
import torch
from ebm_mmdet.energy import GaussianMixtureNoise, NCEObjective, gradient_ascent
objective = NCEObjective(GaussianMixtureNoise((0.075, 0.15, 0.3), dim=4), beta=0.1)
f = lambda y: -y.square().sum(-1)
assert objective(f, torch.zeros(2, 4))["loss"].isfinite()
assert gradient_ascent(f, torch.ones(2, 4), 0.5, 1).y.abs().max() == 0
"""

OPERATORS = """
import torch
import ebm_ops
pooled = ebm_ops.prroi_pool(torch.ones(1, 1, 8, 8), torch.tensor([[0.0, 1, 1, 5, 5]]), (2, 2), 1.0)
assert torch.allclose(pooled, torch.ones(1, 1, 2, 2))
"""


@pytest.mark.parametrize("program", [ENERGY, OPERATORS], ids=["energy", "ops"])
def test_imports_and_works(program):
    environment = dict(os.environ, PYTHONPATH=str(REPOSITORY), PATH="", CC="", CXX="")
    result = subprocess.run(
        [sys.executable, "-c", PREAMBLE + program],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
