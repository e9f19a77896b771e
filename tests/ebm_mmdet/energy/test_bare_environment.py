"""The mathematics and the operators need torch and nothing else: no mm* package, no compiler."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]

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
from ebm_mmdet import energy
noise = energy.GaussianMixtureNoise((0.075, 0.15, 0.3), dim=4)
f = lambda y: -y.square().sum(-1)
for objective in (
    energy.NCEObjective(noise, beta=0.1),
    energy.MLISObjective(noise),
    energy.KLDISObjective(noise),
    energy.MCMCObjective(0.1, 2),
    energy.ScoreMatchingObjective(),
    energy.DSMObjective(0.1),
):
    assert objective(f, torch.zeros(2, 4))["loss"].isfinite()
proposal = energy.MixtureDensityHead(3, 4, 2)(torch.zeros(2, 3))
assert energy.ProposalObjective()(f, torch.zeros(2, 4), proposal=proposal)["loss"].isfinite()
y, log_q = proposal.sample(64)
weights = energy.importance_weights(f(y), log_q).weights
assert energy.importance_mean(y, weights).isfinite().all()
assert energy.gradient_ascent(f, torch.ones(2, 4), 0.5, 1).y.abs().max() == 0
"""

OPERATORS = """
import torch
import ebm_ops
pooled = ebm_ops.prroi_pool(torch.ones(1, 1, 8, 8), torch.tensor([[0.0, 1, 1, 5, 5]]), (2, 2), 1.0)
assert torch.allclose(pooled, torch.ones(1, 1, 2, 2))
"""


@pytest.mark.parametrize("program", [ENERGY, OPERATORS], ids=["energy", "ops"])
def test_imports_and_works(program):
    environment = dict(
        os.environ,
        PYTHONPATH=os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "ops")]),
        PATH="",
        CC="",
        CXX="",
    )
    result = subprocess.run(
        [sys.executable, "-c", PREAMBLE + program],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
