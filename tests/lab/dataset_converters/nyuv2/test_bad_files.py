"""Bad source files give one line with what is wrong and where to get the right one."""

from __future__ import annotations

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

from dataset_converters.nyuv2_conversion import convert
from dataset_converters.nyuv2_files.addresses import ADDRESSES, NYUv2Error
from dataset_converters.nyuv2_files.labeled import LabeledFile
from dataset_converters.nyuv2_files.normals import NormalsArchive
from dataset_converters.nyuv2_files.writer import write_splits
from tests.lab.dataset_converters.nyuv2.nyuv2_support import HEIGHT, WIDTH, tool


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


def test_h5py_is_named_if_it_is_missing(sources, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="pip install h5py"):
        LabeledFile(sources.labeled)
