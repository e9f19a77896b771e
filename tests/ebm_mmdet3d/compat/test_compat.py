"""Repairs of other packages: what was done is logged once, and can be switched off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

import ebm_mmdet3d  # noqa: F401  makes the repairs
from ebm_mmdet3d import compat
from ebm_mmdet3d.compat.numpy_names import patch_database_sampler

REPOSITORY = Path(__file__).resolve().parents[3]
NAMES = ["three_nn", "three_interpolate", "sigmoid_focal_loss", "points_in_boxes_all"]

PROGRAM = """
import ebm_mmdet3d
import importlib
import mmcv.ops, spconv.pytorch.ops
from mmdet3d.datasets.transforms import dbsampler
from ebm_mmdet3d.compat import apply_compat
again = apply_compat()
print("again", again)
for name in {names}:
    print(name, getattr(mmcv.ops, name).__module__)
print("stream", spconv.pytorch.ops.get_current_stream.__module__)
print("numpy", dbsampler.np is __import__("numpy"))
"""


def run(switch: str | None) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != compat.SWITCH}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(REPOSITORY), str(REPOSITORY / "ops"), os.environ.get("PYTHONPATH", "")]
    )
    if switch is not None:
        environment[compat.SWITCH] = switch
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(names=NAMES)],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="most repairs are for machines without CUDA")
@pytest.mark.parametrize("switch", [None, "0"])
def test_one_line_in_the_log_and_the_switch(switch):
    done = run(switch)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    said = [line for line in lines if compat.SWITCH in line]
    rows = dict(line.split(" ", 1) for line in lines if line not in said)
    assert rows["again"] == "[]"
    if switch == "0":
        assert not said
        assert not any("ebm_mmdet3d" in rows[name] for name in NAMES)
        assert not rows["stream"].startswith("ebm_mmdet3d")
        assert rows["numpy"] == "True"
    else:
        (line,) = said
        assert " - mmengine - INFO - " in line
        assert all(rows[name] == "ebm_mmdet3d.compat.cpu_ops" for name in NAMES)
        assert rows["stream"] == "ebm_mmdet3d.compat.without_cuda"
        replaced = [f"mmcv.ops.{name}" for name in NAMES]
        replaced += ["spconv.pytorch.ops.get_current_stream", "SpconvOps.scatter_add_cpu"]
        if "long" not in vars(np):
            assert rows["numpy"] == "False"
            replaced.append("dbsampler.np.long")
        assert all(name in line for name in replaced)


def test_a_value_that_the_switch_does_not_have(monkeypatch):
    monkeypatch.setenv(compat.SWITCH, "off")
    with pytest.raises(ValueError, match=r"EBM_MMDET3D_COMPAT='off'.*expected 1 .* or 0"):
        compat.apply_compat()
    for value in ("", "0", "1"):
        monkeypatch.setenv(compat.SWITCH, value)
        assert compat.apply_compat() == []  # nothing is left to do


def test_only_mmdet3ds_module_gets_the_name():
    from mmdet3d.datasets.transforms import dbsampler

    assert np.dtype(dbsampler.np.long) == np.int64
    assert (dbsampler.np is np) == ("long" in vars(np))
    assert dbsampler.np.concatenate is np.concatenate
    assert patch_database_sampler() == []
