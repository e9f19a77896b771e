"""The converter of NYUv2, on files in exactly its formats."""

from __future__ import annotations

import shutil
import tarfile

import cv2
import numpy as np
import pytest

pytest.importorskip("h5py", reason="NYUv2 is an HDF5 file: pip install h5py")

import h5py
import scipy.io
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from dataset_converters.nyuv2_conversion import convert, summary
from dataset_converters.nyuv2_files.labeled import LabeledFile
from dataset_converters.nyuv2_files.objects import Options
from dataset_converters.nyuv2_files.writer import write_labeled
from ebm_mmdet.datasets import CheckedCOCO
from ebm_mmdet.datasets.nyuv2.classes import CLASSES
from ebm_mmdet.datasets.nyuv2.maps import decode_mask, decode_normals
from tests.lab.dataset_converters.nyuv2.nyuv2_support import (
    HEIGHT,
    NAMES,
    SCENES,
    TEST,
    TRAIN,
    WIDTH,
    listing,
    normals,
    read,
    sample,
    truth,
)


def test_the_source_file_has_the_axes_and_cells_of_matlab(sources):
    """By the description of the published file, not by our reader."""
    one = sample(3)
    with h5py.File(sources.labeled) as file:
        assert file["images"].shape == (6, 3, WIDTH, HEIGHT)
        assert file["images"].dtype == np.uint8
        np.testing.assert_array_equal(file["images"][3].transpose(2, 1, 0), one.image)
        for key, values in (("depths", one.depth), ("labels", one.labels)):
            np.testing.assert_array_equal(file[key][3].T, values)
        assert file["names"].shape == (1, len(NAMES))
        codes = file[file["names"][0, 0]]
        assert (codes.shape, codes.dtype) == ((4, 1), np.uint16)
        assert codes.name.startswith("/#refs#/")
        assert "".join(map(chr, codes[:, 0])) == "wall"
    assert sources.labeled.read_bytes()[:10] == b"MATLAB 7.3"
    splits = scipy.io.loadmat(sources.splits)
    assert splits["trainNdxs"].tolist() == [[number] for number in TRAIN]


def test_images_and_maps_are_those_of_the_source(converted):
    names = sorted(path.name for path in (converted / "images").iterdir())
    assert names == [f"{number:04d}.png" for number in range(1, 7)]
    for index in range(6):
        stem = f"{index + 1:04d}"
        image = cv2.imread(str(converted / "images" / f"{stem}.png"))
        np.testing.assert_array_equal(image[..., ::-1], sample(index).image)
        depth = np.load(converted / "depth" / f"{stem}.npy")
        np.testing.assert_array_equal(depth, sample(index).depth)
        assert depth.dtype == np.float32
        vectors, mask = normals(index)
        content = (converted / "normals" / f"{stem}.png").read_bytes()
        assert np.abs(decode_normals(content, stem) - vectors).max() < 0.02
        content = (converted / "normals_mask" / f"{stem}.png").read_bytes()
        np.testing.assert_array_equal(decode_mask(content, stem), mask)


def test_boxes_masks_ids_and_scenes(converted):
    for split, numbers in (("trainval", TRAIN), ("test", TEST), ("train", [1, 5]), ("val", [2, 3])):
        content = read(converted, split)
        assert content["categories"] == [
            {"id": i, "name": name, "supercategory": "home"} for i, name in enumerate(CLASSES, 1)
        ]
        assert content["scene_types"] == ["bathroom", "bedroom", "home_office", "kitchen"]
        assert [image["id"] for image in content["images"]] == numbers
        ids = [annotation["id"] for annotation in content["annotations"]]
        assert ids == list(range(1, len(ids) + 1))
        for image in content["images"]:
            assert_image(image, content)


def assert_image(image: dict, content: dict) -> None:
    index = image["id"] - 1
    stem, scene_type = f"{image['id']:04d}", SCENES[index].rsplit("_", 1)[0]
    assert image == {
        "id": image["id"],
        "file_name": f"{stem}.png",
        "width": WIDTH,
        "height": HEIGHT,
        "scene": SCENES[index],
        "scene_type": scene_type,
        "scene_id": content["scene_types"].index(scene_type),
        "depth_file": f"{stem}.npy",
        "normals_file": f"{stem}.png",
        "normals_mask_file": f"{stem}.png",
    }
    found = [a for a in content["annotations"] if a["image_id"] == image["id"]]
    expected = truth(index)
    order = sorted(expected, key=lambda key: (CLASSES.index(key[0]), key[1]))
    assert len(found) == len(expected)
    for annotation, key in zip(found, order):
        assert annotation["category_id"] == CLASSES.index(key[0]) + 1
        rows, columns = np.nonzero(expected[key])
        x, y = columns.min(), rows.min()
        w, h = columns.max() - x + 1, rows.max() - y + 1
        assert annotation["bbox"] == [x, y, w, h]
        assert (annotation["area"], annotation["iscrowd"]) == (w * h, 0)
        np.testing.assert_array_equal(coco_mask.decode(annotation["segmentation"]), expected[key])


def test_the_cases_are_all_there():
    """One pixel; no kept object; equal numbers in two classes; none; two parts; two in a scene."""
    assert truth(1)["sink", 3].sum() == 1
    assert not truth(2)
    assert {("pillow", 1), ("bed", 1)} <= set(truth(0))
    assert ("table", 0) not in truth(3)
    assert ("table", 255) in truth(3)
    assert len(SCENES) > len(set(SCENES))


@pytest.mark.parametrize("split", ["trainval", "test", "train", "val"])
def test_pycocotools_and_our_checks_accept_the_files(converted, split):
    path = str(converted / "annotations" / f"instances_{split}.json")
    coco, checked = COCO(path), CheckedCOCO(path)
    assert coco.dataset == checked.dataset  # nothing had to be completed
    assert len(coco.anns) == len(coco.dataset["annotations"]) > 0


def test_without_scenes_for_validation_there_are_two_splits(sources, tmp_path):
    files = convert(sources.labeled, sources.splits, tmp_path / "out")
    assert [path.name for path in files] == ["instances_trainval.json", "instances_test.json"]
    content = read(tmp_path / "out", "trainval")
    assert not any("normals_file" in image for image in content["images"])
    assert not (tmp_path / "out" / "normals").exists()


def test_box_convention(sources, tmp_path, converted):
    """ref: width and height are one less; everything else is equal."""
    convert(sources.labeled, sources.splits, tmp_path / "out", options=Options("ref"))
    inclusive, ref = (read(out, "trainval")["annotations"] for out in (converted, tmp_path / "out"))
    assert len(inclusive) == len(ref)
    for a, b in zip(inclusive, ref):
        x, y, w, h = a["bbox"]
        assert b["bbox"] == [x, y, w - 1, h - 1]
        assert b["area"] == (w - 1) * (h - 1)
        assert a["segmentation"] == b["segmentation"]
    line = summary(tmp_path / "out" / "annotations" / "instances_trainval.json")
    assert "1 boxes without width or height" in line
    assert "4 images, 1 of them without an object, 7 boxes (bathtub 0, bed 1," in line


def test_small_objects_areas_and_depth_as_png(sources, tmp_path, converted):
    options = Options(min_size=3, area="mask", depth="png")
    convert(sources.labeled, sources.splits, tmp_path / "out", options=options)
    content = read(tmp_path / "out", "trainval")
    kept = [a for a in read(converted, "trainval")["annotations"] if min(a["bbox"][2:]) >= 3]
    assert [a["bbox"] for a in content["annotations"]] == [a["bbox"] for a in kept]
    assert content["info"]["left_out"] == 1
    for annotation in content["annotations"]:
        assert annotation["area"] == coco_mask.area(annotation["segmentation"])
    assert content["images"][0]["depth_file"] == "0001.png"
    depth = cv2.imread(str(tmp_path / "out" / "depth" / "0001.png"), cv2.IMREAD_UNCHANGED)
    assert np.abs(depth / 1000 - sample(0).depth).max() <= 0.0005 + 1e-6


def test_an_unpacked_archive_gives_the_same(sources, tmp_path, converted):
    with tarfile.open(sources.normals) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "normals_gt" / "normals" / "._0000.png").write_bytes(b"of macOS")
    for number, folder in enumerate((tmp_path / "normals_gt", tmp_path)):
        if number:
            shutil.rmtree(tmp_path / "out")
        convert(sources.labeled, sources.splits, tmp_path / "out", folder, sources.val_split)
        assert listing(tmp_path / "out") == listing(converted)


def test_an_empty_string_in_a_cell(sources, tmp_path):
    """MATLAB writes it as its size, with an attribute."""
    path = tmp_path / "labeled.mat"
    write_labeled(path, sample, 1, NAMES)
    with h5py.File(path, "r+") as file:
        empty = file.create_dataset("#refs#/empty", data=np.zeros(2, np.uint64))
        empty.attrs["MATLAB_empty"] = np.uint8(1)
        file["names"][0, 0] = empty.ref
    with LabeledFile(path) as labeled:
        assert labeled.names[:2] == ["", "floor"]
        assert (labeled.size, len(labeled)) == ((HEIGHT, WIDTH), 1)
