"""`GeneratedRegressionDataset` in mmengine's loaders, and the packing of its samples."""

import copy
import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="ebm_mmdet.regression needs mmdet")

from mmdet.registry import DATASETS
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from ebm_mmdet.regression.datasets import GeneratedRegressionDataset, PackRegressionInputs
from ebm_mmdet.regression.datasets.generated import road


def build(**options):
    init_default_scope("mmdet")
    pipeline = [{"type": "PackRegressionInputs"}]
    return DATASETS.build(
        {"type": "GeneratedRegressionDataset", "pipeline": pipeline, "num_images": 6, **options}
    )


def test_sample_holds_image_target_and_truth():
    dataset = build(task="road", variant="fork", seed=3)
    assert dataset.metainfo["target"]["names"] == ("steering",)
    sample = dataset[2]
    assert sample["inputs"].shape == (3, 64, 64)
    assert sample["inputs"].dtype == torch.uint8
    truth = road.render(3, 2, "fork")
    assert np.array_equal(sample["inputs"].numpy().transpose(1, 2, 0), truth.image)
    data = sample["data_samples"]
    assert data.gt_target.numpy() == pytest.approx(truth.target)
    assert data.oracle_log_prob == pytest.approx(float(truth.truth.log_prob(truth.target)))
    assert data.group == "fork"
    assert data.sample_idx == 2
    assert data.oracle_means.shape == (2, 1)


def test_equal_sets_of_one_process_share_their_images():
    first, second = (GeneratedRegressionDataset(num_images=3, cache=True, seed=5) for _ in range(2))
    other = GeneratedRegressionDataset(num_images=3, cache=True, seed=6)
    for dataset in (first, second, other):
        dataset.full_init()
    assert first._images is second._images
    assert not np.array_equal(first._images, other._images)
    with pytest.raises(ValueError, match="read-only"):
        first._images[0] = 0


@pytest.mark.parametrize("cache", [False, True])
def test_images_do_not_depend_on_workers_or_cache(cache):
    reference = [build(task="cells", variant="a")[i]["inputs"] for i in range(6)]
    for workers in (0, 2):
        dataset = build(task="cells", variant="a", cache=cache)
        dataset.full_init()
        loader = DataLoader(dataset, batch_size=3, num_workers=workers, collate_fn=pseudo_collate)
        images = [image for batch in loader for image in batch["inputs"]]
        assert all(torch.equal(a, b) for a, b in zip(images, reference))


@pytest.mark.parametrize("task", ["cells", "head"])
def test_cache_is_not_changed_by_transforms(task):
    dataset = GeneratedRegressionDataset(task=task, num_images=2, cache=True)
    first = dataset[0]
    kept = first["img"].copy()
    first["img"][:] = 0
    first["gt_target"][:] = 0
    again = dataset[0]
    assert np.array_equal(again["img"], kept)
    assert again["gt_target"].any()


def test_cache_is_rendered_once_and_copies_work(monkeypatch):
    dataset = GeneratedRegressionDataset(num_images=3, cache=True)
    dataset.full_init()
    expected = dataset[1]["img"]
    for copied in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        assert np.array_equal(copied[1]["img"], expected)
    monkeypatch.setattr(dataset, "_render", None)
    assert np.array_equal(dataset[1]["img"], expected)


def test_statistics_are_those_of_the_labels():
    dataset = GeneratedRegressionDataset(task="head", num_images=50, seed=4)
    labels = np.stack([dataset.get_data_info(i)["gt_target"] for i in range(50)])
    statistics = dataset.target_statistics()
    np.testing.assert_allclose(statistics["mean"], labels.mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics["std"], labels.std(0), rtol=1e-5)
    assert statistics["count"] == 50


def test_errors_name_the_value():
    for options, message in (
        ({"num_images": 0}, "got 0"),
        ({"task": "cats"}, "no task 'cats'"),
        ({"variant": "z"}, "no variant 'z'"),
        ({"seed": -1}, "seed=-1"),
        ({"num_images": 10**6, "cache": True}, "GiB"),
    ):
        with pytest.raises(ValueError, match=message):
            GeneratedRegressionDataset(**options)
    with pytest.raises(IndexError, match="index 4000"):
        GeneratedRegressionDataset()[4000]


def test_packing_of_grey_unlabelled_and_wrong_images():
    pack = PackRegressionInputs()
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    packed = pack.transform({"img": grey, "img_path": "a b.png"})
    assert packed["inputs"].shape == (3, 3, 4)
    assert torch.equal(packed["inputs"][0], packed["inputs"][2])
    assert "gt_target" not in packed["data_samples"]
    assert packed["data_samples"].img_path == "a b.png"
    with pytest.raises(ValueError, match=r"x.png.*\(3, 4, 2\)"):
        pack.transform({"img": np.zeros((3, 4, 2), np.uint8), "img_path": "x.png"})
    with pytest.raises(ValueError, match=r"x.png.*nan"):
        pack.transform({"img": grey, "img_path": "x.png", "gt_target": np.array([np.nan])})
    with pytest.raises(ValueError, match=r"x.png.*uint16"):
        pack.transform({"img": grey.astype(np.uint16), "img_path": "x.png"})
    one = pack.transform({"img": grey, "gt_target": 3})
    assert one["data_samples"].gt_target.tolist() == [3.0]
