"""docs/lidar.md: its config wraps the detectors of its table, with the numbers of the table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

from mmdet3d.registry import MODELS

import ebm_mmdet3d  # noqa: F401

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "lidar.md").read_text()
BASES = {
    "SECOND": "second/second_hv_secfpn_8xb6-80e_kitti-3d-car.py",
    "PointPillars": "pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-car.py",
    "CenterPoint, pillars": (
        "centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py"
    ),
    "CenterPoint, voxels": (
        "centerpoint/centerpoint_voxel01_second_secfpn_8xb4-cyclic-20e_nus-3d.py"
    ),
}


def table_row(start: str) -> list[str]:
    """The cells of the row of a detector: source, channels, origin, cell size, offset."""
    (row,) = re.findall(rf"^\| {re.escape(start)}[^|]*\|(.*)\|$", PAGE, flags=re.M)
    return [cell.strip().strip("`") for cell in row.split("|")]


@pytest.mark.parametrize("name", BASES)
def test_the_config_of_the_page_wraps(name):
    block = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)[0]
    source, channels, origin, cell_size, _ = table_row(name)
    origin = [float(value) for value in origin.split(",")]
    changes = {
        "'./my_detector.py'": f"'mmdet3d::{BASES[name]}'",
        "feature_source='neck'": f"feature_source={source!r}",
        "in_channels=512": f"in_channels={channels}",
        "origin=[0, -40]": f"origin={origin}",
        "cell_size=0.4": f"cell_size={cell_size}",
    }
    for old, new in changes.items():
        assert block.count(old) == 1, old
        block = block.replace(old, new)
    cfg = Config.fromstring(block, ".py")
    init_default_scope("mmdet3d")
    model = MODELS.build(cfg.model)
    # A map that covers the range with such cells is where the head expects it.
    layer = model.data_preprocessor.voxel_layer
    place = list(layer.point_cloud_range)
    width, height = ((place[k + 3] - place[k]) / float(cell_size) for k in (0, 1))
    maps = [torch.zeros(1, int(channels), round(height), round(width))]
    model.energy_head.prepare(maps, point_cloud_range=place)
    neck = model.detector.get_submodule(source)
    assert sum(block[0].out_channels for block in neck.deblocks) == int(channels)
    assert model.energy_head.objective.num_noise == 128


def test_offsets_are_half_a_voxel():
    for row in re.findall(r"^\| .* \| ([\d.]+) \| ([\d.]+) \|$", PAGE, flags=re.M):
        stride = {"0.4": 8, "0.32": 2, "0.8": 4 if row[1] == "0.125" else 8}[row[0]]
        assert float(row[1]) == pytest.approx(0.5 / stride, abs=0.003)


def test_every_tool_and_recipe_that_the_page_names_exists():
    root = Path(__file__).resolve().parents[3]
    for name in set(re.findall(r"(?:tools|configs)/[\w/]+\.(?:py|sh)", PAGE)):
        assert (root / name).is_file(), name
