"""Imports without mmdet3d and with a broken one, and the names that exist."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
needs_mmdet3d = pytest.mark.skipif(
    not find_spec("mmdet3d"), reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'"
)

HIDE = """
import sys, warnings
from importlib.machinery import PathFinder

ABSENT = {absent}

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""

# What needs neither mmdet3d nor any other package of its stack.
LIGHT = """
import numpy as np
from ebm_mmdet3d.evaluation import box_iou_bev, kitti_precision
from ebm_mmdet3d.datasets import SceneOptions, render_scene
from ebm_mmdet3d.compat import apply_compat
box = np.array([[1.0, 2, 3, 4, 2, 1, 0.3]])
assert abs(box_iou_bev(box, box)[0, 0] - 1) < 1e-6
assert not any("mmdet3d" in name for name in apply_compat())
import ebm_mmdet3d, ebm_mmdet3d.evaluation, ebm_mmdet3d.datasets
for module, name in [
    ("ebm_mmdet3d", "EBM3DDetector"),
    ("ebm_mmdet3d.evaluation", "EBMKittiMetric"),
    ("ebm_mmdet3d.datasets", "LidarScenesDataset"),
]:
    try:
        exec(f"from {module} import {name}")
    except ImportError as error:
        assert "pip install 'ebm-mmdet[3d]'" in str(error) and "mmdet3d" in str(error), error
    else:
        raise AssertionError(name)
    assert not hasattr(sys.modules[module], "no_such_name")
print("done")
"""


def run(program: str) -> subprocess.CompletedProcess:
    path = [str(REPOSITORY), str(REPOSITORY / "ops"), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-c", program],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(path)),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_numbers_and_scenes_import_without_openmmlab():
    """No config requests registered parts, so there is no message."""
    hide = HIDE.format(absent={"mmengine", "mmcv", "mmdet", "mmdet3d", "spconv"})
    done = run(hide + "warnings.simplefilter('error', RuntimeWarning)\n" + LIGHT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["done"]


@needs_mmdet3d
def test_without_mmdet3d_alone_a_warning_says_what_to_install(tmp_path):
    """And so does one line of a command that would need it."""
    (tmp_path / "lidar.py").write_text("default_scope = 'mmdet3d'\n")
    call = f"""
from ebm_mmdet.commands import main
for command in ("calibrate", "fit", "add-head"):
    assert main([command, {str(tmp_path / "lidar.py")!r}, "best.pth"]) == 1
"""
    done = run(HIDE.format(absent={"mmdet3d", "spconv"}) + "import ebm_mmdet3d\n" + LIGHT + call)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "RuntimeWarning" in line]
    assert "registered nothing: mmdet3d is not installed" in line
    assert "pip install 'ebm-mmdet[3d]'" in line
    for command in ("calibrate", "fit", "add-head"):
        (line,) = [line for line in done.stderr.splitlines() if f" {command}: " in line]
        assert "mmdet3d, which is not installed" in line
        assert "pip install 'ebm-mmdet[3d]'" in line
    assert not (tmp_path / "lidar_fit").exists()


@needs_mmdet3d
@pytest.mark.slow
def test_a_broken_package_stops_the_import(tmp_path):
    """Installed, but it raises: no partial package, and the message names the remedy."""
    (tmp_path / "mmdet3d").mkdir()
    (tmp_path / "mmdet3d" / "__init__.py").write_text("raise OSError('libcuda is too old')\n")
    done = run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport ebm_mmdet3d.evaluation")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ebm_mmdet3d does not import")
    assert "OSError: libcuda is too old" in last
    assert "`python -m ebm_mmdet`" in last
    assert "The above exception was the direct cause" in done.stderr


@needs_mmdet3d
def test_public_names_are_ordinary_and_registered():
    import mmdet3d.registry

    import ebm_mmdet3d

    assert sorted(ebm_mmdet3d.__all__) == ebm_mmdet3d.__all__
    registries = [
        getattr(mmdet3d.registry, name) for name in ("MODELS", "DATASETS", "TRANSFORMS", "METRICS")
    ]
    for name in ebm_mmdet3d.__all__:
        part = getattr(ebm_mmdet3d, name)
        if name != "__version__":
            assert any(registry.get(f"mmdet3d.{name}") is part for registry in registries), name
    # And nothing is registered that has no name here.
    for registry in registries:
        for name, part in registry.module_dict.items():
            if part.__module__.startswith("ebm_mmdet3d"):
                assert name in ebm_mmdet3d.__all__


@needs_mmdet3d
def test_parts_of_training_and_refinement_are_those_of_2d():
    """All our parts in mmdet's registry, except those of images: boxes with four sides, numbers."""
    import mmdet.registry
    import mmdet3d.registry

    import ebm_mmdet
    import ebm_mmdet3d  # noqa: F401

    def ours(registry) -> set[str]:
        parts = registry.TASK_UTILS.module_dict.items()
        return {name for name, part in parts if part.__module__.startswith("ebm_mmdet")}

    assert ebm_mmdet.__name__ == "ebm_mmdet"
    only_2d = {
        "DeltaXYXYBBoxCoder",
        "EnergyGuidedNMS",
        "FractionSSDAnchorGenerator",
        "TargetCodec",
    }
    assert ours(mmdet.registry) - only_2d == ours(mmdet3d.registry)
    assert len(ours(mmdet3d.registry)) >= 11
