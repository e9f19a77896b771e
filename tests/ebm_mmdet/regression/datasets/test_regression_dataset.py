"""`RegressionDataset`: what users bring, good and bad."""

import json
import os

import cv2
import numpy as np
import pytest

pytest.importorskip("mmdet", reason="ebm_mmdet.regression needs mmdet")

from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope

from ebm_mmdet.regression.datasets import (
    LoadRegressionImage,
    RegressionDataset,
    TargetError,
    complete_target,
    image_file,
    read_image,
)

AGE = {"target": {"names": ("age",), "ranges": ((0, 100),)}}


def write_image(path, image=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((5, 7, 3), (10, 20, 30), np.uint8) if image is None else image
    assert cv2.imwrite(str(path), image)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "my data"
    for name in ("a 1.png", "a 2.png", "b.png"):
        write_image(root / "images" / name)
    return root


def write(root, text, name="table.csv"):
    (root / name).write_text(text, encoding="utf-8")
    return name


def build(root, table, name="table.csv", **options):
    # mmengine collects garbage when it serialises, which takes longer than all the rest here.
    defaults = {"data_prefix": {"img_path": "images"}, "serialize_data": False}
    options = {"metainfo": AGE, **defaults, **options}
    return RegressionDataset(write(root, table, name), data_root=str(root), **options)


GOOD = "img_path,age,group\na 1.png,31,anna\na 2.png,32.5,anna\nb.png,54,007\n"


def test_csv_in_a_pipeline(folder):
    init_default_scope("mmdet")
    dataset = DATASETS.build(
        {
            "type": "RegressionDataset",
            "ann_file": write(folder, GOOD),
            "data_root": str(folder),
            "data_prefix": {"img_path": "images"},
            "metainfo": AGE,
            "pipeline": [
                {"type": "LoadRegressionImage"},
                {"type": "Resize", "scale": (8, 8), "keep_ratio": False},
                {"type": "PackRegressionInputs"},
            ],
        }
    )
    assert len(dataset) == 3
    packed = dataset[1]
    assert packed["inputs"].shape == (3, 8, 8)
    assert packed["inputs"][:, 0, 0].tolist() == [10, 20, 30]
    sample = packed["data_samples"]
    assert sample.gt_target.tolist() == [32.5]
    assert sample.group == "anna"
    assert sample.sample_idx == 1
    assert sample.ori_shape == (5, 7)
    assert dataset[2]["data_samples"].group == "007"
    statistics = dataset.target_statistics()
    assert statistics["mean"] == pytest.approx([np.mean([31, 32.5, 54])])
    assert statistics["std"] == pytest.approx([np.std([31, 32.5, 54])])
    assert dataset.metainfo["target"] == complete_target(AGE["target"], "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "﻿" + GOOD),
        ("t.csv", GOOD.replace(",", ";") + "\n\n"),
        ("t.tsv", GOOD.replace(",", "\t").replace("\n", "\r\n")),
        ("t.csv", GOOD.replace("age", "target")),
        (
            "t.json",
            json.dumps(
                [
                    {"img_path": "a 1.png", "target": 31, "group": "anna"},
                    {"img_path": "a 2.png", "target": [32.5], "group": "anna"},
                    {"img_path": "b.png", "age": 54, "target": "54", "group": "007"},
                ]
            ).replace('"age": 54, ', ""),
        ),
        (
            "t.json",
            json.dumps(
                {
                    "metainfo": {},
                    "data_list": [
                        {"img_path": "a 1.png", "age": 31, "group": "anna"},
                        {"img_path": "a 2.png", "age": 32.5, "group": "anna"},
                        {"img_path": "b.png", "age": 54, "group": "007"},
                    ],
                }
            ),
        ),
    ],
)
def test_forms_of_a_table(folder, name, text):
    dataset = build(folder, text, name)
    infos = [dataset.get_data_info(i) for i in range(3)]
    assert [info["gt_target"].tolist() for info in infos] == [[31], [32.5], [54]]
    assert [info["group"] for info in infos] == ["anna", "anna", "007"]
    assert os.path.isfile(infos[0]["img_path"])


def test_several_targets(folder):
    pose = {"target": {"names": ("yaw", "pitch"), "ranges": ((-90, 90), (-60, 60))}}
    for header, columns in (("yaw,pitch", None), ("target_0,target_1", None), ("u,v", ("u", "v"))):
        table = f"img_path,{header}\nb.png,1,-2\n"
        dataset = build(folder, table, metainfo=pose, target_columns=columns)
        assert dataset.get_data_info(0)["gt_target"].tolist() == [1, -2]
    table = json.dumps([{"img_path": "b.png", "target": [1, -2]}])
    assert len(build(folder, table, "t.json", metainfo=pose)) == 1
    with pytest.raises(TargetError, match=r"entry 0.*3 numbers; expected 2"):
        build(
            folder,
            json.dumps([{"img_path": "b.png", "target": [1, 2, 3]}]),
            "t.json",
            metainfo={"target": {"ranges": pose["target"]["ranges"]}},
            target_columns=("target",),
        )


INTEGER = {"target": {**AGE["target"], "integer": True}}


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ("img_path,age\nb.png,nan\n", {}, r"table.csv, line 2 \(b.png\): 'age' is nan.*finite"),
        ("img_path,age\nb.png,inf\n", {}, "line 2.*finite"),
        (
            "img_path,age\na 1.png,3\nb.png,101\na 2.png,-1\n",
            {},
            r"line 3 \(b.png\): 'age' is 101; .*0 .. 100.*2 of 3 rows",
        ),
        ("img_path,age\nb.png,1.5\n", {"metainfo": INTEGER}, "line 2.*1.5.*an integer"),
        ("img_path,age\nb.png,old\n", {}, "line 2: 'old'.*not a number"),
        ("img_path;age\nb.png;1,5\n", {}, "line 2: '1,5'.*decimal point"),
        ("img_path,age\nb.png,\n", {}, r"line 2 \(b.png\): the target is empty.*allow_unlabelled"),
        ("img_path,age\n,5\n", {}, "line 2: 'img_path' is ''"),
        ("img_path,age\nb.png,5,7\n", {}, "line 2 has 3 fields"),
        ("img_path,age,age\nb.png,5,7\n", {}, "two columns have the same name"),
        (
            "img_path,age\nb.png,5\nb.png,5\n",
            {},
            "line 3: the image 'b.png' is there twice.*line 2",
        ),
        ("file,age\nb.png,5\n", {}, "no column 'img_path'.*'file'.*img_column"),
        ("img_path,weight\nb.png,5\n", {}, "no columns.*'weight'.*target_columns"),
        ("img_path,age\n", {}, "no rows"),
        ("", {}, "no rows"),
        (GOOD, {"metainfo": None}, "range of the targets is not declared"),
        (GOOD, {"metainfo": {"target": {"ranges": ((5, 1),)}}}, "low < high"),
        (GOOD, {"metainfo": {"target": {"range": ((5, 1),)}}}, "unknown entry 'range'"),
        (GOOD, {"metainfo": {"target": {"ranges": (0, 100)}}}, r"ranges=\(0, 100\).*pair"),
        (
            GOOD,
            {"metainfo": {"target": {"ranges": ((0, 100),), "periods": (360,)}}},
            "one period long",
        ),
        (
            GOOD,
            {"metainfo": {"target": {"ranges": ((0, 100),), "flip_signs": (0,)}}},
            "flip_signs",
        ),
        (
            GOOD,
            {"metainfo": {"target": {"ranges": ((0, 100),), "names": "age"}}},
            "names='age'",
        ),
    ],
)
def test_bad_tables_are_named(folder, table, options, message):
    with pytest.raises(TargetError, match=message):
        build(folder, table, **options)


def test_bad_json_is_named(folder):
    with pytest.raises(TargetError, match=r"t.json is not valid JSON"):
        build(folder, "[{", "t.json")
    with pytest.raises(TargetError, match=r"neither a list of objects"):
        build(folder, '{"a": 1}', "t.json")


def test_missing_files_are_named(folder, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"line 3: the image .*c.png does not exist.*1 of 2"
    ):
        build(folder, "img_path,age\nb.png,5\nc.png,6\n")
    with pytest.raises(FileNotFoundError, match=r"none.csv"):
        RegressionDataset("none.csv", data_root=str(folder), metainfo=AGE)
    with pytest.raises(TargetError, match="is a folder"):
        RegressionDataset("images", data_root=str(folder), metainfo=AGE)
    (folder / "images" / "empty.png").write_bytes(b"")
    with pytest.raises(TargetError, match=r"empty.png is empty"):
        build(folder, "img_path,age\nempty.png,5\n")
    (folder / "images" / "folder.png").mkdir()
    with pytest.raises(TargetError, match=r"folder.png is"):
        build(folder, "img_path,age\nfolder.png,5\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="3 of 3 rows"):
        build(folder, GOOD, data_prefix={"img_path": str(empty)})


def test_an_unreadable_file_is_not_called_absent(folder, monkeypatch):
    """As root every file can be read, so the refusal is simulated."""
    real = os.stat

    def refuse(path, *args, **kwargs):
        if str(path).endswith("b.png"):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(TargetError, match=r"b.png cannot be reached \(Permission denied\)"):
        build(folder, GOOD)


def test_a_broken_image_is_named_when_it_is_read(folder):
    (folder / "images" / "b.png").write_bytes(b"no image")
    dataset = build(folder, GOOD, pipeline=[LoadRegressionImage()])
    with pytest.raises(ValueError, match=r"b.png \(8 bytes\) cannot be decoded"):
        dataset[2]


def test_one_image_unlabelled_images_and_several_labels(folder):
    assert len(build(folder, "img_path,age\nb.png,5\n")) == 1
    dataset = build(folder, "img_path,age\nb.png,5\na 1.png,\n", allow_unlabelled=True)
    assert "gt_target" not in dataset.get_data_info(1)
    assert dataset.target_statistics()["count"] == 1
    nothing = build(folder, "img_path,age\nb.png,\n", allow_unlabelled=True)
    with pytest.raises(TargetError, match="no statistics"):
        nothing.target_statistics()
    # Two people who labelled the same image.
    assert len(build(folder, "img_path,age\nb.png,5\nb.png,6\n")) == 2


def test_angles_may_have_any_value(folder):
    metainfo = {"target": {"ranges": ((-180, 180),), "periods": (360,)}}
    dataset = build(folder, "img_path,target\nb.png,270\n", metainfo=metainfo)
    assert dataset.get_data_info(0)["gt_target"].tolist() == [270]


def test_split_by_group(folder):
    split = {"kind": "group", "parts": {"train": 0.5, "val": 0.5}}
    parts = [build(folder, GOOD, split={**split, "part": part}) for part in ("train", "val")]
    groups = [{part.get_data_info(i)["group"] for i in range(len(part))} for part in parts]
    assert sorted(map(len, parts)) == [1, 2]
    assert not groups[0] & groups[1]


@pytest.mark.parametrize("kind", ["random", "blocks"])
def test_no_image_is_in_two_parts(folder, kind):
    """Also if one of its rows writes the path in another way."""
    for number in range(10):
        write_image(folder / "images" / f"{number}.png")
    rows = [f"{'./' * (age % 2)}{n}.png,{age}" for age in (1, 2, 4) for n in range(10)]
    table = "\n".join(["img_path,age", *rows])
    split = {"kind": kind, "parts": {"train": 0.5, "val": 0.5}}
    parts = [build(folder, table, split={**split, "part": part}) for part in ("train", "val")]
    images = [
        {os.path.realpath(part.get_data_info(i)["img_path"]) for i in range(len(part))}
        for part in parts
    ]
    assert not images[0] & images[1]
    assert [len(part) for part in parts] == [15, 15]


def test_a_mirrored_label_has_to_stay_in_its_range(folder):
    def target(low, high, sign, **more):
        return complete_target({"ranges": ((low, high),), "flip_signs": (sign,), **more}, "x")

    for good in ((-30, 30, -1), (0, 100, 1), (-0.1 - 0.2, 0.3, -1)):
        assert target(*good)["flip_signs"] == (good[2],)
    assert target(0, 360, -1, periods=(360,))["flip_signs"] == (-1,)
    for bad in ((0, 100, -1), (-30, 45, -1)):
        with pytest.raises(TargetError, match=r"flip_signs is -1 for 'target'.*symmetric about 0"):
            target(*bad)
    metainfo = {"target": {"ranges": ((0, 100), (-5, 20)), "flip_signs": (1, -1)}}
    with pytest.raises(TargetError, match=r"'target_1'.*\(-5, 20\).*Declare \(-20, 20\)"):
        build(folder, "img_path,target_0,target_1\nb.png,5,5\n", metainfo=metainfo)


def test_images_of_any_depth(tmp_path):
    grey = np.array([[0, 100], [200, 255]], np.uint8)
    write_image(tmp_path / "grey 8.png", grey)
    loaded = read_image(str(tmp_path / "grey 8.png"))
    assert loaded.shape == (2, 2, 3)
    for channel in range(3):
        assert np.array_equal(loaded[..., channel], grey)
    deep = np.array([[0, 257], [32896, 65535]], np.uint16)
    write_image(tmp_path / "deep.png", deep)
    loaded = read_image(str(tmp_path / "deep.png"))
    assert loaded[..., 0].tolist() == [[0, 1], [128, 255]]
    twelve = np.array([[0, 4095], [2048, 5000]], np.uint16)
    write_image(tmp_path / "twelve.tif", twelve)
    loaded = read_image(str(tmp_path / "twelve.tif"), value_range=(0, 4095))
    assert loaded[..., 2].tolist() == [[0, 255], [128, 255]]
    write_image(tmp_path / "float.tif", np.array([[0.0, 1.0]], np.float32))
    with pytest.raises(ValueError, match=r"float.tif holds float32.*value_range"):
        read_image(str(tmp_path / "float.tif"))
    loaded = read_image(str(tmp_path / "float.tif"), value_range=(0, 1))
    assert loaded[..., 0].tolist() == [[0, 255]]
    clear = np.dstack([np.full((2, 2, 3), 50, np.uint8), np.zeros((2, 2), np.uint8)])
    write_image(tmp_path / "clear.png", clear)
    assert (read_image(str(tmp_path / "clear.png")) == 50).all()
    with pytest.raises(FileNotFoundError, match=r"gone.png does not exist"):
        read_image(str(tmp_path / "gone.png"))


def test_a_dark_16_bit_image_is_reported(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(image_file, "print_log", lambda text, **options: said.append(text))
    write_image(tmp_path / "dark.png", np.full((2, 2), 300, np.uint16))
    read_image(str(tmp_path / "dark.png"))
    assert len(said) == 1
    assert "dark.png" in said[0]
    assert "value_range" in said[0]
    read_image(str(tmp_path / "dark.png"), value_range=(0, 500))
    assert len(said) == 1
