"""Every 3D recipe reads generated scenes through its own pipelines, object sampling included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

from mmdet3d.registry import DATASETS

import ebm_mmdet3d  # noqa: F401
from dataset_converters.kitti_preparation import prepare_kitti
from dataset_converters.kitti_writer import write_kitti
from ebm_mmdet3d.datasets import Lidar, SceneOptions

FOLDER = Path(__file__).parents[3] / "configs" / "ebm3d"
# The generator draws cars and vans; the others sample pedestrians and cyclists too.
RECIPES = sorted(path.name for path in FOLDER.glob("*.py") if "3class" not in path.name)
OPTIONS = SceneOptions(extent=(6, -12, 40, 12), lidar=Lidar(num_beams=24, azimuth_step=0.6))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = write_kitti(
        tmp_path_factory.mktemp("data") / "kitti", dict(train=3, val=2), 3, OPTIONS
    )
    prepare_kitti(folder, database=True)
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_training_and_test_data(name, root):
    init_default_scope("mmdet3d")
    text = Config.fromfile(FOLDER / name).pretty_text
    assert "type='ObjectSample'" in text
    cfg = Config.fromstring(text.replace("data/kitti/", f"{root}/"), ".py")
    frame = DATASETS.build(cfg.train_dataloader.dataset)[0]
    objects = frame["data_samples"].gt_instances_3d
    assert len(objects.bboxes_3d) == len(objects.labels_3d) > 0
    assert objects.labels_3d.dtype == torch.int64
    assert set(objects.labels_3d.tolist()) == {0}  # vans are cars, or left out
    assert frame["inputs"]["points"].shape[1] == 4
    test = DATASETS.build(cfg.test_dataloader.dataset)
    assert len(test) == 2
    assert "velodyne_reduced" in test[0]["data_samples"].lidar_path
