"""`RoomScenesDataset` in mmdet's pipelines, mmengine's loaders and COCO's evaluation."""

import copy
import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="RoomScenesDataset is an mmdet data set")

import mmcv
from mmdet.registry import DATASETS, METRICS
from mmengine.dataset import pseudo_collate
from mmengine.fileio import get
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from ebm_mmdet.datasets.rooms import (
    CLASSES,
    SCENE_TYPES,
    RoomOptions,
    RoomScenesDataset,
    render_room,
)
from ebm_mmdet.datasets.rooms.missing import absent_modalities

OPTIONS = {"image_size": (48, 64), "min_pixels": 4}
MAPS = ("gt_depth", "gt_normals", "gt_normals_mask")
PIPELINE = [
    {"type": "RandomFlipWithMaps", "prob": 0.0},
    {"type": "AuxiliaryTargets", "stride": 8},
    {
        "type": "PackMultiTaskInputs",
        "meta_keys": ("img_id", "ori_shape", "img_shape", "instances"),
    },
]


def build(**options):
    init_default_scope("mmdet")
    return DATASETS.build({"type": "RoomScenesDataset", "options": OPTIONS, **options})


def test_an_item_has_what_is_true_of_the_room():
    dataset, scene = (
        build(num_images=3, seed=4),
        render_room(4, 2, RoomOptions.from_config(OPTIONS)),
    )
    item = dataset[2]
    np.testing.assert_array_equal(item["img"], scene.image)
    np.testing.assert_array_equal(item["gt_bboxes"].tensor.numpy(), scene.boxes)
    np.testing.assert_array_equal(item["gt_bboxes_labels"], scene.labels)
    np.testing.assert_array_equal(item["gt_masks"].masks, scene.masks)
    np.testing.assert_array_equal(item["gt_depth"], scene.depth)
    np.testing.assert_array_equal(item["gt_normals"], scene.normals)
    assert item["gt_normals_mask"].all()
    assert item["gt_normals_mask"].dtype == bool
    assert item["gt_scene"] == scene.scene_type
    assert dataset.metainfo == {"classes": CLASSES, "scene_types": SCENE_TYPES}
    assert item["img_id"] == 2
    assert len(item["instances"]) == len(scene.labels)


def test_the_pipeline_gives_what_a_multi_task_detector_takes():
    sample = build(num_images=3, pipeline=PIPELINE)[0]
    assert sample["inputs"].shape == (3, 48, 64)
    packed = sample["data_samples"]
    assert packed.gt_depth.depth.shape == (1, 6, 8)
    assert packed.gt_normals.normals.shape == (3, 6, 8)
    assert packed.gt_normals.mask.all()
    assert packed.gt_scene.label.dtype == torch.int64
    assert len(packed.gt_instances) >= 1


def test_missing_modalities_are_absent_and_always_the_same():
    shares = {"depth": 0.5, "normals": 0.3, "scene": 0.1}
    absent = [absent_modalities(0, index, shares) for index in range(400)]
    for name, share in shares.items():
        assert np.mean([name in one for one in absent]) == pytest.approx(share, abs=0.08)
    both = np.mean([{"depth", "normals"} <= one for one in absent])
    assert both == pytest.approx(0.15, abs=0.06)  # independent of each other
    more = [absent_modalities(0, index, {"depth": 0.7}) for index in range(400)]
    assert all("depth" in two for one, two in zip(absent, more) if "depth" in one)
    dataset, keys = build(num_images=8, missing=shares), {}
    for index in (3, 0, 7, 1, 3):
        item = dataset[index]
        for name in shares:
            assert (f"gt_{name}" in item) == (name not in absent[index])
        assert ("gt_normals" in item) == ("gt_normals_mask" in item)
        assert keys.setdefault(index, set(item)) == set(item)
    none = build(num_images=1, missing={"depth": 1.0, "normals": 1, "scene": 1}, pipeline=PIPELINE)
    packed = none[0]["data_samples"]
    assert not any(name in packed for name in ("gt_depth", "gt_normals", "gt_scene"))


def test_the_cache_gives_the_same_and_cannot_be_changed_from_outside():
    fresh, cached = build(num_images=2), build(num_images=2, cache=True)
    first = cached[1]
    for value in (first["img"], first["gt_depth"], first["gt_normals"], first["gt_bboxes"].tensor):
        value[:] = 0
    first["gt_bboxes_labels"][:] = 9
    first["gt_masks"].masks[:] = 0
    first["instances"].clear()
    for dataset in (cached, copy.deepcopy(cached), pickle.loads(pickle.dumps(cached))):
        item, expected = dataset[1], fresh[1]
        for key in ("img", "gt_bboxes_labels", *MAPS):
            np.testing.assert_array_equal(item[key], expected[key])
        np.testing.assert_array_equal(item["gt_masks"].masks, expected["gt_masks"].masks)
        assert item["instances"] == expected["instances"]


def test_images_do_not_depend_on_the_number_of_workers():
    batches = []
    for workers in (0, 2):
        loader = DataLoader(
            build(num_images=4, pipeline=PIPELINE, missing={"depth": 0.5}, cache=True),
            batch_size=2,
            num_workers=workers,
            collate_fn=pseudo_collate,
        )
        batches.append([torch.stack(batch["inputs"]) for batch in loader])
    for first, second in zip(*batches):
        assert torch.equal(first, second)


def test_perfect_predictions_have_an_average_precision_of_one():
    """Without an annotation file: `instances` are the ground truth, ignored ones do not count."""
    dataset = build(num_images=12, pipeline=PIPELINE)
    metric = METRICS.build({"type": "HighIoUCocoMetric", "metric": "bbox"})
    metric.dataset_meta = dataset.metainfo
    samples = []
    for index in range(len(dataset)):
        sample = dataset[index]["data_samples"].to_dict()
        boxes = torch.tensor([one["bbox"] for one in sample["instances"]])
        labels = torch.tensor([one["bbox_label"] for one in sample["instances"]])
        sample["pred_instances"] = {
            "bboxes": boxes,
            "labels": labels,
            "scores": torch.linspace(0.5, 1, len(labels)),
        }
        samples.append(sample)
    assert any(one["ignore_flag"] for sample in samples for one in sample["instances"])
    metric.process({}, samples)
    assert metric.evaluate(len(samples))["coco/bbox_mAP"] == pytest.approx(1.0)


def test_the_path_of_an_image_can_be_read_and_names_a_file():
    """So mmdet's visualization, which reads images again, works without files."""
    for options in ({"image_size": [24, 32], "materials": (3, 4), "shadows": False}, {}):
        item = build(num_images=8, seed=6, options=options)[7]
        path = item["img_path"]
        assert path.endswith("/000007.png")
        np.testing.assert_array_equal(mmcv.imfrombytes(get(path)), item["img"])
    for wrong in ("rooms://seed=0/x.png", "rooms://0/1", "rooms://seed=0&colour=1/000000.png"):
        with pytest.raises(ValueError, match="is not the path of a generated room"):
            get(wrong)


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="got 0"):
        RoomScenesDataset(num_images=0)
    with pytest.raises(IndexError, match="index 5"):
        build(num_images=5)[5]
    with pytest.raises(KeyError, match="'colour' is not one of"):
        build(missing={"colour": 0.5})
    with pytest.raises(ValueError, match="share of depth"):
        build(missing={"depth": 1.5})
    with pytest.raises(ValueError, match="seed=-1"):
        build(seed=-1, num_images=1)[0]
