"""`ShapesDataset` in mmdet's pipelines and mmengine's loaders."""

import pytest
import torch

pytest.importorskip("mmdet", reason="ShapesDataset is an mmdet data set")

from mmdet.registry import DATASETS
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from ebm_mmdet.datasets import CLASSES, ShapesDataset

PIPELINE = [
    {"type": "RandomFlip", "prob": 0.0},
    {"type": "PackDetInputs", "meta_keys": ("img_id", "img_shape", "ori_shape")},
]


def build(**options):
    init_default_scope("mmdet")
    return DATASETS.build(
        {"type": "ShapesDataset", "pipeline": PIPELINE, "image_size": (64, 96), **options}
    )


def test_pipeline_gives_what_a_detector_takes():
    dataset = build(num_images=5)
    assert dataset.metainfo["classes"] == CLASSES
    sample = dataset[0]
    assert sample["inputs"].shape == (3, 64, 96)
    instances = sample["data_samples"].gt_instances
    assert len(instances) >= 1
    assert instances.bboxes.tensor.shape == (len(instances), 4)
    assert sample["data_samples"].img_id == 0


def test_images_do_not_depend_on_the_number_of_workers():
    loaders = [
        DataLoader(build(num_images=4), batch_size=2, num_workers=n, collate_fn=pseudo_collate)
        for n in (0, 2)
    ]
    batches = [[torch.stack(batch["inputs"]) for batch in loader] for loader in loaders]
    for a, b in zip(*batches):
        assert torch.equal(a, b)
    assert not torch.equal(batches[0][0][0], batches[0][0][1])


def test_two_conventions_annotate_one_of_two_boxes():
    pipeline = [{"type": "PackDetInputs", "meta_keys": ("conventions", "convention")}]
    dataset = build(num_images=6, conventions=2, extent=(16, 28), pipeline=pipeline)
    for sample in (dataset[i]["data_samples"] for i in range(6)):
        ways, chosen = torch.tensor(sample.conventions), torch.tensor(sample.convention)
        rows = torch.arange(len(chosen))
        assert torch.equal(sample.gt_instances.bboxes.tensor, ways[rows, chosen])
    with pytest.raises(ValueError, match="conventions=0"):
        build(conventions=0)


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="got 0"):
        ShapesDataset(num_images=0)
    with pytest.raises(IndexError, match="index 5"):
        build(num_images=5)[5]
