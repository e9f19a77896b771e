"""`CropCountDataset`: every object is counted in one crop."""

import json
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("mmdet", reason="ebm_mmdet.regression needs mmdet")

from torch.utils.data import DataLoader

from ebm_mmdet.regression.datasets import CropCountDataset, TargetError

BBBC039 = Path(os.environ.get("EBM_DATA_ROOT", "../shared")) / "data/bbbc039"


def write(folder, annotations, sizes=((40, 50),), **changes):
    (folder / "images").mkdir(exist_ok=True)
    images = []
    for i, (height, width) in enumerate(sizes):
        rows = np.arange(height)[:, None] + np.arange(width)[None] * 2
        cv2.imwrite(str(folder / "images" / f"im {i}.png"), (rows + 50 * i).astype(np.uint8))
        images.append({"id": i, "file_name": f"im {i}.png", "height": height, "width": width})
    content = {
        "images": images,
        "annotations": [{"id": k, **a} for k, a in enumerate(annotations)],
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "dirt"}],
        **changes,
    }
    (folder / "ann.json").write_text(json.dumps(content))
    return {"ann_file": "ann.json", "data_root": str(folder)}


def nucleus(x, y, image=0, category=1, **extra):
    box = [x - 2, y - 2, 4, 4]
    return {"image_id": image, "category_id": category, "bbox": box, "iscrowd": 0, **extra}


ANNOTATIONS = [
    nucleus(5, 5),
    nucleus(19, 5),  # its box crosses the border at 20; its centre does not
    nucleus(20, 0),  # on the border: belongs to the second crop
    nucleus(0, 0, centroid=[25.0, 25.0]),
    nucleus(5, 25, iscrowd=1),
    nucleus(5, 25, category=2),
    nucleus(45, 5),  # in no crop
]


def counts(dataset):
    return [int(dataset.get_data_info(i)["gt_target"][0]) for i in range(len(dataset))]


@pytest.mark.parametrize("cache", [True, False])
def test_objects_belong_to_the_crop_of_their_centre(tmp_path, cache):
    options = write(tmp_path, ANNOTATIONS)
    dataset = CropCountDataset(
        **options, max_count=9, crop_size=20, output_size=None, category="cell", cache=cache
    )
    assert counts(dataset) == [2, 1, 0, 1]
    sample = dataset[3]
    assert sample["group"] == "im 0.png"
    whole = cv2.imread(str(tmp_path / "images" / "im 0.png"))
    assert np.array_equal(sample["img"], whole[20:40, 20:40])
    sample["img"][:] = 0
    assert np.array_equal(dataset[3]["img"], whole[20:40, 20:40])
    assert dataset.metainfo["target"]["ranges"] == ((0.0, 9.0),)
    assert dataset.metainfo["target"]["integer"] is True
    every = CropCountDataset(**options, max_count=9, crop_size=20, cache=False)
    assert counts(every) == [2, 1, 1, 1]
    assert every[0]["img"].shape == (64, 64, 3)
    assert every.target_statistics()["mean"] == [1.25]


def test_stride_subset_split_and_workers(tmp_path):
    options = write(tmp_path, ANNOTATIONS, sizes=((40, 50), (20, 20), (30, 40)))
    dataset = CropCountDataset(**options, max_count=9, crop_size=20, stride=10, output_size=8)
    assert len(dataset) == 3 * 4 + 1 + 2 * 3
    expected = [dataset[i]["img"] for i in (14, 2)]
    copied = pickle.loads(pickle.dumps(dataset))
    indexed = CropCountDataset(
        **options, max_count=9, crop_size=20, stride=10, output_size=8, indices=[14, 2]
    )
    for part in (dataset.get_subset([14, 2]), copied.get_subset([14, 2]), indexed):
        assert len(part) == 2
        assert all(np.array_equal(part[i]["img"], expected[i]) for i in range(2))
    parts = [
        CropCountDataset(
            **options,
            max_count=9,
            crop_size=20,
            split={"kind": "group", "part": name, "parts": {"train": 0.67, "val": 0.33}},
        )
        for name in ("train", "val")
    ]
    groups = [{p.get_data_info(i)["group"] for i in range(len(p))} for p in parts]
    assert [len(g) for g in groups] == [2, 1]
    assert not groups[0] & groups[1]
    loader = DataLoader(dataset, num_workers=2, batch_size=None, collate_fn=lambda x: x)
    images = [sample["img"] for sample in loader]
    assert all(np.array_equal(a, dataset[i]["img"]) for i, a in enumerate(images))


def test_errors_name_the_value(tmp_path):
    options = write(tmp_path, ANNOTATIONS)
    with pytest.raises(TargetError, match=r"im 0.png, crop at 0, 0: 'count' is 2.*0 .. 1"):
        CropCountDataset(**options, max_count=1, crop_size=20)
    with pytest.raises(TargetError, match=r"'im 0.png' has 50 x 40 pixels"):
        CropCountDataset(**options, max_count=9, crop_size=128)
    with pytest.raises(TargetError, match=r"no category 'cat'; it has 'cell', 'dirt'"):
        CropCountDataset(**options, max_count=9, crop_size=20, category="cat")
    with pytest.raises(ValueError, match="crop_size=0"):
        CropCountDataset(**options, max_count=9, crop_size=0)
    (tmp_path / "images" / "im 0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"im 0.png does not exist, and 1 of 1"):
        CropCountDataset(**options, max_count=9, crop_size=20)
    write(tmp_path, [nucleus(3, 3, image=5)])
    with pytest.raises(TargetError, match=r"image 5, which is not in the file"):
        CropCountDataset(**options, max_count=9, crop_size=20)
    write(tmp_path, [], images=[])
    with pytest.raises(TargetError, match="no images"):
        CropCountDataset(**options, max_count=9, crop_size=20)
    write(tmp_path, [{"image_id": 0}])
    with pytest.raises(TargetError, match=r"not in COCO format: KeyError 'bbox'"):
        CropCountDataset(**options, max_count=9, crop_size=20)
    with pytest.raises(FileNotFoundError, match=r"none.json"):
        CropCountDataset("none.json", max_count=9)


@pytest.mark.parametrize("known", ["1", 1])
@pytest.mark.parametrize("used", ["1", 1, 3])
@pytest.mark.parametrize("image", ["scan a", 0])
def test_ids_of_any_type_that_agree(tmp_path, known, used, image):
    """An object of a category that is not in the file would be left out of every count."""
    options = write(tmp_path, [nucleus(3, 3, image=image, category=used)])
    content = json.loads((tmp_path / "ann.json").read_text())
    content["categories"][0]["id"], content["images"][0]["id"] = known, image
    (tmp_path / "ann.json").write_text(json.dumps(content))
    settings = {"max_count": 9, "crop_size": 20, "category": "cell"}
    if used == known:
        assert sum(counts(CropCountDataset(**options, **settings))) == 1
    else:
        with pytest.raises(TargetError, match=rf"category_id {used!r}, and the categories have"):
            CropCountDataset(**options, **settings)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_object_without_a_place_is_refused(tmp_path, bad):
    for annotation in (nucleus(bad, 3), nucleus(3, 3, centroid=[3.0, bad])):
        options = write(tmp_path, [nucleus(3, 3), annotation])
        with pytest.raises(TargetError, match="which is in no crop"):
            CropCountDataset(**options, max_count=9, crop_size=20)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("size", [(80, 100), (39, 50), (40, 51), (50, 40)])
def test_an_image_of_another_size_than_stated_is_refused(tmp_path, size, cache):
    options = write(tmp_path, ANNOTATIONS)
    cv2.imwrite(str(tmp_path / "images" / "im 0.png"), np.zeros(size, np.uint8))
    message = rf"im 0.png has {size[1]} x {size[0]} pixels, and .*ann.json says 50 x 40"
    with pytest.raises(TargetError, match=message):
        CropCountDataset(**options, max_count=9, crop_size=20, cache=cache)[0]


@pytest.mark.skipif(not BBBC039.is_dir(), reason="the images of BBBC039 are not here")
def test_real_nuclei():
    dataset = CropCountDataset(
        "annotations/val.json", data_root=str(BBBC039), max_count=40, cache=False
    )
    assert len(dataset) == 40 * 20
    values = counts(dataset)
    content = json.loads((BBBC039 / "annotations/val.json").read_text())
    single = [a for a in content["annotations"] if not a["iscrowd"]]
    inside = [a for a in single if a["centroid"][0] < 640 and a["centroid"][1] < 512]
    assert sum(values) == len(inside)
    sample = dataset[0]
    assert sample["img"].shape == (64, 64, 3)
    assert sample["img"].std() > 5
