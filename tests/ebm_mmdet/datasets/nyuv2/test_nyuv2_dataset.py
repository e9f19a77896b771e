"""The data set that reads the converter's layout."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmdet.utils import register_all_modules
from mmengine.structures import InstanceData

from ebm_mmdet.datasets import CheckedCOCO
from ebm_mmdet.datasets.nyuv2 import (
    CLASSES,
    NYUv2Dataset,
    annotate_masks,
    write_annotations,
    write_sample,
)

PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
    {"type": "LoadAuxiliaryMaps"},
    {"type": "AuxiliaryTargets", "stride": 16},
    {"type": "PackMultiTaskInputs"},
]


@pytest.fixture(scope="module", autouse=True)
def _modules():
    register_all_modules(init_default_scope=True)


@pytest.fixture
def root(tmp_path):
    """Four images: all modalities, no depth, no scene, and none of them nor an object."""
    rng = np.random.default_rng(0)
    entries = []
    for number in range(1, 5):
        image = rng.integers(0, 255, (48, 64, 3)).astype(np.uint8)
        maps = [None, None, None]
        if number < 4:
            maps = [rng.uniform(1, 5, (48, 64)), rng.normal(size=(48, 64, 3)), None]
        if number == 2:
            maps[0] = None
        image_entry = {"id": number, **write_sample(tmp_path, f"{number:04d}", image, *maps)}
        if number < 3:
            image_entry["scene_type"] = "kitchen" if number == 1 else "bedroom"
        masks = np.zeros((2, 48, 64), bool)
        masks[0, 4:20, 5 + number : 30] = masks[1, 22:40, 30:60] = True
        entries.append((image_entry, annotate_masks(masks, [0, 18]) if number < 4 else []))
    write_annotations(tmp_path, "train", entries, CLASSES, ["bedroom", "kitchen", "office"])
    return tmp_path


def build(root, **options) -> NYUv2Dataset:
    with contextlib.redirect_stdout(io.StringIO()):
        return NYUv2Dataset(
            data_root=str(root),
            ann_file="annotations/instances_train.json",
            pipeline=PIPELINE,
            **options,
        )


def test_what_an_image_has_is_in_its_sample_and_what_it_lacks_is_not(root):
    dataset = build(root)
    assert dataset.metainfo["classes"] == CLASSES
    assert dataset.metainfo["scene_types"] == ("bedroom", "kitchen", "office")
    samples = [dataset[i]["data_samples"] for i in range(4)]
    assert ["gt_depth" in s for s in samples] == [True, False, True, False]
    assert ["gt_normals" in s for s in samples] == [True, True, True, False]
    assert [s.gt_scene.label.item() if "gt_scene" in s else None for s in samples] == [
        1,
        0,
        None,
        None,
    ]
    first = samples[0].gt_instances
    assert first.bboxes.tensor.tolist() == [[6, 4, 30, 20], [30, 22, 60, 40]]
    assert first.labels.tolist() == [0, 18]
    assert first.masks.masks[0].sum() == 16 * 24
    assert len(samples[3].gt_instances) == 0


def test_folders_and_names_of_scenes_can_be_set(root):
    (root / "depth").rename(root / "deep")
    names = ["office", "kitchen", "bedroom"]
    dataset = build(root, data_prefix={"depth": "deep/"}, metainfo={"scene_types": names})
    assert [dataset.get_data_info(i).get("gt_scene") for i in range(4)] == [1, 2, None, None]
    assert "gt_depth" in dataset[0]["data_samples"]
    with pytest.raises(ValueError, match=r"scene type 'kitchen'; expected one of \['office'\]"):
        build(root, metainfo={"scene_types": ["office"]})


def test_a_plain_coco_file_has_no_scenes(root):
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    del content["scene_types"]
    for image in content["images"]:
        for key in list(image):
            if key not in ("id", "file_name", "width", "height"):
                del image[key]
    path.write_text(json.dumps(content))
    dataset = build(root)
    assert dataset.metainfo["scene_types"] == ()
    assert set(dataset[0]["data_samples"].all_keys()) >= {"gt_instances"}
    assert not {"gt_depth", "gt_normals", "gt_scene"} & set(dataset[0]["data_samples"].keys())


def test_the_annotation_file_passes_the_checks_and_is_not_overwritten(root):
    path = root / "annotations" / "instances_train.json"
    with contextlib.redirect_stdout(io.StringIO()):
        coco = CheckedCOCO(str(path))
    assert sorted(coco.anns) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(FileExistsError, match="is not overwritten"):
        write_annotations(root, "train", [], CLASSES)


def test_masks_without_a_pixel_are_left_out_and_one_pixel_is_a_box():
    masks = np.zeros((2, 5, 6), bool)
    masks[1, 3, 2] = True
    (found,) = annotate_masks(masks, [4, 7])
    assert found["bbox"] == [2, 3, 1, 1]
    assert (found["area"], found["category_id"]) == (1, 8)
    assert annotate_masks(np.zeros((0, 5, 6)), []) == []


def test_perfect_predictions_have_an_ap_of_1(root):
    dataset = build(root, test_mode=True)
    metric = CocoMetric(
        ann_file=str(root / "annotations" / "instances_train.json"),
        metric="bbox",
        classwise=True,
        proposal_nums=(1, 10, 100),
    )
    metric.dataset_meta = dataset.metainfo
    with contextlib.redirect_stdout(io.StringIO()):
        for index in range(len(dataset)):
            sample = dataset[index]["data_samples"]
            truth = sample.gt_instances
            sample.pred_instances = InstanceData(
                bboxes=truth.bboxes.tensor, labels=truth.labels, scores=torch.ones(len(truth))
            )
            metric.process({}, [sample.to_dict()])
        results = metric.evaluate(len(dataset))
    assert results["coco/bbox_mAP"] == 1
    assert results["coco/toilet_precision"] == 1
