"""Every 3D recipe reads generated scenes through its own pipelines, object sampling included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
RECIPES = sorted(path.name for path in FOLDER.glob("*.py"))
THREE_CLASSES = [name for name in RECIPES if "3class" in name]
CARS = [name for name in RECIPES if name not in THREE_CLASSES]
OPTIONS = SceneOptions(extent=(6, -12, 40, 12), lidar=Lidar(num_beams=24, azimuth_step=0.6))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = write_kitti(
        tmp_path_factory.mktemp("data") / "kitti", dict(train=3, val=2), 3, OPTIONS
    )
    prepare_kitti(folder, database=True)
    return folder


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory):
    """The generator draws cars and vans; every third of them gets another name here."""
    folder = write_kitti(
        tmp_path_factory.mktemp("data") / "kitti", dict(train=3, val=2), 4, OPTIONS
    )
    for file in sorted((folder / "training" / "label_2").glob("*.txt")):
        lines = file.read_text().splitlines()
        renamed = [
            " ".join([("Car", "Pedestrian", "Cyclist")[row % 3], *line.split()[1:]])
            for row, line in enumerate(lines)
        ]
        file.write_text("".join(f"{line}\n" for line in renamed))
    prepare_kitti(folder, database=True)
    return folder


def read(name: str, root: Path) -> Config:
    """A recipe with its data in ``root``."""
    init_default_scope("mmdet3d")
    text = Config.fromfile(FOLDER / name).pretty_text
    assert "type='ObjectSample'" in text
    return Config.fromstring(text.replace("data/kitti/", f"{root}/"), ".py")


@pytest.mark.parametrize("name", THREE_CLASSES)
def test_training_and_test_data_of_three_classes(name, three_classes):
    np.random.seed(0)  # noqa: NPY002  mmdet3d draws from the global state
    cfg = read(name, three_classes)
    classes = cfg.class_names
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    inner = dataset.dataset
    inner.full_init()
    sampler = next(step for step in inner.pipeline.transforms if hasattr(step, "db_sampler"))
    database = sampler.db_sampler.sampler_dict
    assert set(database) == set(classes)  # each class has objects to sample
    counts = np.zeros((2, len(classes)), int)
    for index in range(len(dataset)):
        file = three_classes / "training" / "label_2" / f"{index:06d}.txt"
        written = [line.split()[0] for line in file.read_text().splitlines()]
        loaded = inner.get_data_info(index)
        for step in inner.pipeline.transforms[:2]:
            loaded = step(loaded)
        assert [classes[label] for label in loaded["gt_labels_3d"]] == written
        counts[0] += np.bincount(loaded["gt_labels_3d"], minlength=len(classes))
        frame = dataset[index]
        objects = frame["data_samples"].gt_instances_3d
        assert objects.labels_3d.dtype == torch.int64
        assert len(objects.bboxes_3d) == len(objects.labels_3d) > 0
        counts[1] += np.bincount(objects.labels_3d, minlength=len(classes))
        assert frame["inputs"]["points"].shape[1] == 4
    assert (counts[0] > 0).all()
    assert (counts[1] > 0).all()
    assert counts[1].sum() > counts[0].sum()  # some were sampled
    # The head has an output for each label.
    head = cfg.model.energy_head
    assert (
        head.num_classes == len(classes) == len(cfg.model.detector.bbox_head.anchor_generator.sizes)
    )

    test = DATASETS.build(cfg.test_dataloader.dataset)
    assert list(test.metainfo["classes"]) == list(classes)
    assert len(test) == 2
    assert "velodyne_reduced" in test[0]["data_samples"].lidar_path


@pytest.mark.parametrize("name", CARS)
def test_training_and_test_data(name, root):
    cfg = read(name, root)
    frame = DATASETS.build(cfg.train_dataloader.dataset)[0]
    objects = frame["data_samples"].gt_instances_3d
    assert len(objects.bboxes_3d) == len(objects.labels_3d) > 0
    assert objects.labels_3d.dtype == torch.int64
    assert set(objects.labels_3d.tolist()) == {0}  # vans are cars, or left out
    assert frame["inputs"]["points"].shape[1] == 4
    test = DATASETS.build(cfg.test_dataloader.dataset)
    assert len(test) == 2
    assert "velodyne_reduced" in test[0]["data_samples"].lidar_path
