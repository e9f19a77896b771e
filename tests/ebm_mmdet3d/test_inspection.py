"""What `python -m ebm_mmdet inspect` finds about detectors of mmdet3d, and what it refuses."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

if not find_spec("mmdet3d"):
    pytest.skip("3D needs mmdet3d", allow_module_level=True)

from mmdet3d.evaluation import KittiMetric
from mmengine.config import Config
from mmengine.hub import get_config

from ebm_mmdet import commands
from ebm_mmdet.apis.config_text import plain
from ebm_mmdet3d.apis import add_energy_head_3d
from ebm_mmdet3d.apis.head_settings import bev_head
from ebm_mmdet3d.inspection import inspect_config_3d
from tests.ebm_mmdet3d.models.toys import CELL, GRID, ORIGIN, REAL_HEAD, build, real_detector_cfg

POINTPILLARS = "mmdet3d::pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-car.py"
RANGE = [*ORIGIN, -3, ORIGIN[0] + GRID[1] * CELL, ORIGIN[1] + GRID[0] * CELL, 1]


def test_pointpillars_as_the_page_has_it(capsys):
    assert commands.main(["inspect", POINTPILLARS]) == 0
    text = capsys.readouterr().out
    pasted = eval(f"dict({''.join(text.rpartition('fit:')[2].partition('pixel')[0].split())})")
    assert pasted == dict(num_classes=1, in_channels=384, origin=[0.0, -39.68], cell_size=0.32)
    assert "feature_source='neck'" in text
    assert "0.25 where cells are centred on voxels" in text
    table = {tuple(line.split()[:2]): line for line in text.splitlines()}
    assert "used" in table["neck", "0"]
    assert "0.64" in table["backbone", "1"]


@pytest.mark.parametrize("name", sorted(REAL_HEAD))
def test_the_written_head_fits_each_family_of_detectors(name):
    model = real_detector_cfg(name)
    look = inspect_config_3d(Config(dict(model=model)))
    parts = plain(bev_head(look))
    head = parts["energy_head"]
    found = {key: head[key] for key in ("in_channels", "num_classes", "cell_size")}
    expected = dict(REAL_HEAD[name])
    assert head["origin"] == pytest.approx(list(expected.pop("origin")))
    assert found == pytest.approx(expected)
    assert parts["feature_source"] == ("pts_neck" if name == "centerpoint" else "neck")
    stride = head["cell_size"] / look.voxel_size
    assert head["pixel_offset"] == pytest.approx(0.5 / stride, abs=1e-4)
    cfg = dict(type="EBM3DDetector", detector=model, **parts)
    assert build(cfg).energy_head.cell_size == expected["cell_size"]


@pytest.mark.parametrize(
    ("kind", "becomes"),
    [
        ("KittiMetric", "EBMKittiMetric"),
        ("mmdet3d.KittiMetric", "EBMKittiMetric"),
        (KittiMetric, "EBMKittiMetric"),
        ("mmdet3d.LyftMetric", "mmdet3d.LyftMetric"),
    ],
    ids=str,
)
def test_kittis_metric_needs_no_gpu_however_its_type_is_spelled(kind, becomes):
    cfg = Config(
        dict(
            default_scope="mmdet3d",
            model=real_detector_cfg("pointpillars"),
            train_dataloader=dict(dataset=dict(type="KittiDataset"), batch_size=2),
            val_evaluator=dict(type=kind, ann_file="x.pkl"),
        )
    )
    written = add_energy_head_3d(cfg, "mine.pth")
    assert written.val_evaluator.type == becomes
    assert written.val_evaluator.ann_file == "x.pkl"


def test_what_is_measured_sets_noise_regression_and_the_scale_of_bottom_and_height():
    look = inspect_config_3d(Config(dict(model=real_detector_cfg("pointpillars"))))
    spread = torch.tensor([0.2, 0.2, 0.06, 0.3, 0.1, 0.05, 0.08])
    residuals = spread * torch.randn(2000, 7, generator=torch.Generator().manual_seed(0))
    parts = plain(bev_head(look, residuals, (-1.7312, 1.5489)))
    head = parts["energy_head"]
    sigmas = torch.tensor(head["objective"]["noise"]["sigmas"])
    torch.testing.assert_close(
        sigmas, torch.tensor([[0.4], [0.8], [1.6]]) * spread, rtol=0.1, atol=0
    )
    torch.testing.assert_close(
        torch.tensor(head["regression"]["residual_std"]), spread, rtol=0.1, atol=0
    )
    assert head["point_heights"] is True
    assert head["branch_center"] == [-1.73, 1.55]
    assert head["branch_scale"] == pytest.approx(sigmas[-1][[2, 5]].tolist())
    assert build(dict(type="EBM3DDetector", detector=real_detector_cfg("pointpillars"), **parts))
    # Without what was measured, the head is the paper's.
    for few in (None, residuals[:19]):
        head = plain(bev_head(look, few))["energy_head"]
        assert not {"regression", "branch_center", "branch_scale", "point_heights"} & set(head)


def test_a_detector_inside_ours_and_a_range_beside_the_model():
    toy = dict(type="ToyBEVDetector", channels=6)
    model = dict(type="EBM3DDetector", detector=toy)
    found = inspect_config_3d(Config(dict(model=model, point_cloud_range=RANGE)))
    assert (found.chosen.module, found.chosen.channels) == ("neck", 6)
    assert (found.chosen.rows, found.chosen.columns, found.chosen.cell_size) == (*GRID, CELL)
    assert (found.num_classes, found.pixel_offset) == (None, None)


def test_what_has_no_map_from_above_is_refused():
    with pytest.raises(ValueError, match=r"VoteNet has no point_cloud_range.*SECOND, PointPillars"):
        inspect_config_3d(get_config("mmdet3d::votenet/votenet_8xb8_scannet-3d.py"))
