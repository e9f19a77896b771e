"""The converter of NYUv2, on files in exactly its formats."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("h5py", reason="NYUv2 is an HDF5 file: pip install h5py")

import h5py
import scipy.io
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import dataset_converters.nyuv2_conversion as conversion
from dataset_converters.nyuv2_conversion import convert, summary
from dataset_converters.nyuv2_files.addresses import ADDRESSES, NYUv2Error
from dataset_converters.nyuv2_files.labeled import LabeledFile
from dataset_converters.nyuv2_files.normals import NormalsArchive
from dataset_converters.nyuv2_files.objects import Options
from dataset_converters.nyuv2_files.writer import write_labeled, write_splits
from dataset_converters.progress_bars import no_progress_bars
from ebm_mmdet.datasets import CheckedCOCO
from ebm_mmdet.datasets.nyuv2.classes import CLASSES
from ebm_mmdet.datasets.nyuv2.maps import decode_mask, decode_normals
from tests.lab.dataset_converters.nyuv2_support import (
    HEIGHT,
    NAMES,
    SCENES,
    TEST,
    TRAIN,
    WIDTH,
    normals,
    sample,
    truth,
    write_sources,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _quiet():
    with no_progress_bars(), contextlib.redirect_stdout(io.StringIO()):
        yield


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("nyuv2 source"))


@pytest.fixture(scope="module")
def converted(sources, tmp_path_factory):
    """Everything, with default options."""
    out = tmp_path_factory.mktemp("nyuv2") / "out"
    with no_progress_bars(), contextlib.redirect_stdout(io.StringIO()):
        convert(sources.labeled, sources.splits, out, sources.normals, sources.val_split)
    return out


def read(out: Path, split: str) -> dict:
    return json.loads((out / "annotations" / f"instances_{split}.json").read_text())


def listing(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def tool():
    path = ROOT / "tools" / "dataset_converters" / "nyuv2.py"
    spec = importlib.util.spec_from_file_location("nyuv2_tool", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


@pytest.mark.parametrize("stop", ["normals", "image", "annotations"])
def test_an_interrupted_run_continues(sources, tmp_path, converted, monkeypatch, stop):
    """Interrupted at any stage, it ends with the same files, and makes no image twice."""
    out, calls = tmp_path / "out", []
    name = {"normals": "_check_png", "image": "_write_image", "annotations": "write_annotations"}
    real = getattr(conversion, name[stop])

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    arguments = (*sources[:2], out, *sources[2:])
    with monkeypatch.context() as patch:
        patch.setattr(conversion, name[stop], interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(*arguments)
    assert not (out / "annotations" / "instances_train.json").exists()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.is_file()}
    if stop == "annotations":  # an unreadable part is not taken for an absent one
        part = out / "annotations" / ".parts" / "0002.json"
        content = part.read_text()
        part.write_text(content[:20])
        with pytest.raises(NYUv2Error, match=r"0002\.json is not valid JSON"):
            convert(*arguments)
        part.write_text(content)
    convert(*arguments)
    assert listing(out) == listing(converted)
    for path, time in before.items():
        if ".parts" not in path.parts:
            assert path.stat().st_mtime_ns == time, path


def test_a_complete_run_is_left_as_it_is(sources, tmp_path, converted, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(converted, out)
    (out / "images" / "0001.png").write_bytes(b"changed by the user")
    before = listing(out)
    monkeypatch.setattr(conversion, "_write_image", None)
    files = convert(*sources[:2], out, *sources[2:])
    assert len(files) == 4
    assert listing(out) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": Options("ref")}, "box_convention': 'inclusive'.* there, .*'ref'.* now"),
        ({"normals": None}, "normals: True there, False now"),
        ({"val_split": None}, "splits: .*nothing is overwritten"),
    ],
)
def test_other_options_than_those_of_the_first_run_are_refused(sources, converted, change, message):
    before = listing(converted)
    arguments = {"normals": sources.normals, "val_split": sources.val_split, **change}
    with pytest.raises(NYUv2Error, match=message):
        convert(sources.labeled, sources.splits, converted, **arguments)
    assert listing(converted) == before


def test_a_folder_with_other_content_is_refused(sources, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(NYUv2Error, match="exists and is no conversion of NYUv2"):
        convert(sources.labeled, sources.splits, tmp_path / "out")
    (tmp_path / "out" / "conversion.json").write_text("{")
    with pytest.raises(NYUv2Error, match="is not valid JSON"):
        convert(sources.labeled, sources.splits, tmp_path / "out")


def spoil(name: str, sources, folder: Path) -> Path:
    """A bad file instead of the labeled data set."""
    path = folder / f"{name}.mat"
    if name == "absent":
        return path
    if name == "folder":
        path.mkdir()
    elif name == "html":
        path.write_bytes(b"<html>404 Not Found</html>")
    elif name == "empty":
        path.touch()
    elif name == "version 5":
        scipy.io.savemat(path, {"images": np.zeros(3)})
    else:
        shutil.copy(sources.labeled, path)
        if name == "truncated":
            os.truncate(path, path.stat().st_size // 2)
            return path
        with h5py.File(path, "r+") as file:
            if name == "other keys":
                del file["instances"], file["sceneTypes"]
            elif name == "other axes":
                shape = np.zeros((HEIGHT, WIDTH, 3, 6), np.uint8)
                del file["images"]
                file["images"] = shape
            elif name == "other types":
                del file["labels"]
                file["labels"] = np.zeros((6, WIDTH, HEIGHT), np.int32)
            elif name == "no cells":
                del file["names"]
                file["names"] = np.zeros((1, 4))
            elif name == "fewer scenes":
                refs = file["scenes"][:, :2]
                del file["scenes"]
                file.create_dataset("scenes", data=refs, dtype=h5py.ref_dtype)
            elif name == "no toilet":
                refs = file["names"][:, :20]
                del file["names"]
                file.create_dataset("names", data=refs, dtype=h5py.ref_dtype)
            elif name == "damaged names":
                file["names"][0, 3] = np.array([h5py.Reference()], h5py.ref_dtype)[0]
            elif name == "damaged":
                place = file["labels"].id.get_chunk_info(4)
    if name == "damaged":
        with path.open("r+b") as file:
            file.seek(place.byte_offset)
            file.write(b"\xff" * place.size)
    return path


BAD = {
    "absent": "does not exist",
    "folder": "is a folder; expected a file",
    "html": r"\(26 bytes\) is not a MATLAB 7.3 file: it begins with b'<html>404 Not Fo'",
    "empty": r"\(0 bytes\) is not a MATLAB 7.3 file",
    "version 5": "is of MATLAB version 5 .*expected version 7.3",
    "truncated": r"is truncated \(\d+ of \d+ bytes\); download it again",
    "other keys": "has no instances, sceneTypes; it has depths, images, labels, names, rawDepths",
    "other axes": r"images is \(48, 64, 3, 6\) in HDF5's order of axes; expected \(n, 3, width, h",
    "other types": r"labels is int32 \(6, 64, 48\); expected uint16 or uint8 \(6, 64, 48\)",
    "no cells": "names is float64; expected references to strings",
    "fewer scenes": "scenes has 2 entries for 6 images",
    "no toilet": "of the 19 classes are not among its 20 names",
    "damaged names": "is damaged: names cannot be read",
    "damaged": "is damaged: image 5 cannot be read",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_labeled_file_gives_one_line_with_the_address(sources, tmp_path, name, capsys):
    path = spoil(name, sources, tmp_path)
    with pytest.raises(SystemExit) as exit_:
        tool().main([str(path), str(sources.splits), "--out", str(tmp_path / "out")])
    message = str(exit_.value)
    assert message.startswith(f"nyuv2: {path}")
    assert "\n" not in message
    assert ADDRESSES["labeled"] in message
    with pytest.raises(NYUv2Error, match=BAD[name]):
        convert(path, sources.splits, tmp_path / "out")
    if name != "damaged":  # which is found when the image is read
        assert not (tmp_path / "out").exists()


def bad_splits(tmp_path) -> dict[str, tuple[Path, str]]:
    files = {}
    for name, (train, test, message) in {
        "from 0": ([0, 1, 2, 4], [3, 5], "counted from 1, in one of the two splits"),
        "twice": ([1, 2, 3, 4, 5], [4, 6], "5 and 2 indices; expected each of the 6 images"),
        "other number": ([1, 2], [3], "2 and 1 indices"),
    }.items():
        write_splits(tmp_path / f"{name}.mat", train, test)
        files[name] = tmp_path / f"{name}.mat", message
    scipy.io.savemat(tmp_path / "keys.mat", {"trainNdxs": [[1]], "other": 1})
    files["keys"] = tmp_path / "keys.mat", "has no testNdxs; it has trainNdxs, other"
    content = (tmp_path / "keys.mat").read_bytes()
    (tmp_path / "cut.mat").write_bytes(content[:150])
    files["cut"] = tmp_path / "cut.mat", "is truncated or not a MATLAB file"
    (tmp_path / "text.mat").write_bytes(b"no MATLAB file " * 20)
    files["text"] = tmp_path / "text.mat", "is truncated or not a MATLAB file"
    (tmp_path / "empty.mat").touch()
    files["empty"] = tmp_path / "empty.mat", "is truncated or not a MATLAB file"
    files["absent"] = tmp_path / "absent.mat", "does not exist"
    return files


def test_bad_splits(sources, tmp_path):
    for path, message in bad_splits(tmp_path).values():
        with pytest.raises(NYUv2Error, match=message) as error:
            convert(sources.labeled, path, tmp_path / "out")
        assert ADDRESSES["splits"] in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(NYUv2Error, match=r"is of MATLAB version 7\.3; expected version 5"):
        convert(sources.labeled, sources.labeled, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bathroom_0003a\n", "1 of the 1 scenes for validation are not of the train split"),
        ("kitchen_0002\nattic_0001", "1 of the 2 scenes .* first is 'attic_0001'; .*bedroom_0001"),
        ("bedroom_0001 kitchen_0002 bedroom_0004", "none is left to train on"),
        ("", "is empty; expected one scene a line"),
    ],
)
def test_bad_scenes_for_validation(sources, tmp_path, text, message):
    path = tmp_path / "val.txt"
    path.write_text(text)
    with pytest.raises(NYUv2Error, match=message):
        convert(sources.labeled, sources.splits, tmp_path / "out", val_split=path)


def test_a_scene_on_both_sides_of_the_official_split_is_refused(sources, tmp_path):
    write_splits(tmp_path / "splits.mat", [1, 2, 5], [3, 4, 6])
    with pytest.raises(NYUv2Error, match=r"of the official test split.*'kitchen_0002'"):
        convert(sources.labeled, tmp_path / "splits.mat", tmp_path / "out", None, sources.val_split)


def test_bad_normals(sources, tmp_path):
    cut = tmp_path / "cut.tgz"
    cut.write_bytes(sources.normals.read_bytes()[:-5000])
    with pytest.raises(NYUv2Error, match="is truncated or not a tar archive") as error:
        NormalsArchive(cut, 6)
    assert ADDRESSES["normals"] in str(error.value)
    cut.write_bytes(b"<html>")
    with pytest.raises(NYUv2Error, match="is truncated or not a tar archive"):
        NormalsArchive(cut, 6)
    with pytest.raises(NYUv2Error, match=r"has 6 files normals/\*\.png; expected .* 7 images"):
        NormalsArchive(sources.normals, 7)
    with pytest.raises(NYUv2Error, match="does not exist.*without it, leave out --normals"):
        NormalsArchive(tmp_path / "absent", 6)
    with tarfile.open(sources.normals) as archive:
        archive.extractall(tmp_path, filter="data")
    file = tmp_path / "normals_gt" / "masks" / "0002.png"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(NYUv2Error, match="file 3 of normals_mask is not a complete PNG file"):
        convert(sources.labeled, sources.splits, tmp_path / "out", tmp_path)
    cv2.imwrite(str(file), np.zeros((4, 5)))
    with pytest.raises(NYUv2Error, match="is 5 x 4 pixels; expected 64 x 48"):
        convert(sources.labeled, sources.splits, tmp_path / "out", tmp_path)


def test_the_command(sources, tmp_path, monkeypatch, capsys):
    out = tmp_path / "with blanks"
    arguments = [*map(str, sources[:2]), "--out", str(out), "--val-split", str(sources.val_split)]
    tool().main(arguments)
    with pytest.raises(SystemExit, match="min_size is 0; expected at least 1"):
        tool().main([*arguments, "--min-size", "0"])

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "_write_image", interrupted)
    with pytest.raises(SystemExit, match="interrupted; the same command continues it"):
        tool().main([*arguments[:3], str(tmp_path / "other")])


def test_h5py_is_named_if_it_is_missing(sources, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="pip install h5py"):
        LabeledFile(sources.labeled)


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
