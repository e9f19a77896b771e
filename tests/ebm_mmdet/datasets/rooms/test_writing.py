"""Rooms as files: `NYUv2Dataset` reads what `RoomScenesDataset` gives; nothing is overwritten."""

import json

import numpy as np
import pytest

pytest.importorskip("mmdet", reason="NYUv2Dataset is an mmdet data set")

from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope

from dataset_converters import rooms as command
from ebm_mmdet.datasets.rooms import RoomOptions, write_rooms

OPTIONS = RoomOptions(image_size=(48, 64), min_pixels=4)
MISSING = {"depth": 0.4, "normals": 0.4, "scene": 0.4}


def read(root, split):
    init_default_scope("mmdet")
    from ebm_mmdet.datasets.rooms import CLASSES

    return DATASETS.build(
        {
            "type": "NYUv2Dataset",
            "data_root": str(root),
            "ann_file": f"annotations/instances_{split}.json",
            "metainfo": {"classes": CLASSES},
            "filter_cfg": {"filter_empty_gt": False},
            "pipeline": [
                {"type": "LoadImageFromFile"},
                {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
                {"type": "LoadAuxiliaryMaps"},
            ],
        }
    )


def test_the_files_are_the_data_set(tmp_path):
    root = tmp_path / "a folder with blanks"
    write_rooms(root, "val", 6, 3, OPTIONS, MISSING)
    written = read(root, "val")
    made = DATASETS.build(
        {
            "type": "RoomScenesDataset",
            "num_images": 6,
            "seed": 3,
            "options": {"image_size": (48, 64), "min_pixels": 4},
            "missing": MISSING,
        }
    )
    assert len(written) == 6
    assert written.metainfo["scene_types"] == made.metainfo["scene_types"]
    lacking = 0
    for index in range(6):
        one, two = written[index], made[index]
        np.testing.assert_array_equal(one["img"], two["img"])
        np.testing.assert_array_equal(one["gt_bboxes"].tensor, two["gt_bboxes"].tensor)
        np.testing.assert_array_equal(one["gt_bboxes_labels"], two["gt_bboxes_labels"])
        np.testing.assert_array_equal(one["gt_ignore_flags"], two["gt_ignore_flags"])
        np.testing.assert_array_equal(one["gt_masks"].masks, two["gt_masks"].masks)
        for key in ("gt_depth", "gt_normals", "gt_scene"):
            assert (key in one) == (key in two)
            lacking += key not in one
        if "gt_depth" in one:
            np.testing.assert_array_equal(one["gt_depth"], two["gt_depth"])
        if "gt_normals" in one:
            assert np.abs(one["gt_normals"] - two["gt_normals"]).max() < 0.01  # 8 bits
            assert one["gt_normals_mask"].all()
        if "gt_scene" in one:
            assert one["gt_scene"] == two["gt_scene"]
    assert 0 < lacking < 18


def test_an_interrupted_run_is_continued(tmp_path):
    def interrupted(numbers):
        yield from list(numbers)[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rooms(tmp_path / "a", "train", 4, 0, OPTIONS, progress=interrupted)
    image = tmp_path / "a" / "images" / "train_00001.png"
    before = image.stat().st_mtime_ns
    path = write_rooms(tmp_path / "a", "train", 4, 0, OPTIONS)
    assert image.stat().st_mtime_ns == before
    whole = write_rooms(tmp_path / "b", "train", 4, 0, OPTIONS)
    assert json.loads(path.read_text()) == json.loads(whole.read_text())
    assert not list((tmp_path / "a" / "annotations").glob(".parts*"))
    content = path.read_text()
    assert write_rooms(tmp_path / "a", "train", 4, 0, OPTIONS) == path  # complete: nothing to do
    assert path.read_text() == content


def test_other_settings_are_refused(tmp_path):
    write_rooms(tmp_path, "val", 1, 0, OPTIONS)
    with pytest.raises(FileExistsError, match=r"\{'seed': 0\}, not with \{'seed': 1\}"):
        write_rooms(tmp_path, "val", 1, 1, OPTIONS)
    write_rooms(tmp_path, "train", 1, 1, OPTIONS)  # another split of the same folder
    (tmp_path / "rooms_val.json").unlink()
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        write_rooms(tmp_path, "val", 1, 0, OPTIONS)
    with pytest.raises(ValueError, match="got 0"):
        write_rooms(tmp_path, "test", 0, 0, OPTIONS)


def test_the_command(tmp_path, capsys):
    out = str(tmp_path / "rooms")
    size = ["--size", "24", "32", "--missing", "depth=1", "--options", "materials=20,30"]
    command.main(["--out", out, "--train", "2", "--val", "1", *size])
    assert len(read(out, "train")) == 2
    assert "depth_path" not in read(out, "train").get_data_info(0)
    assert "depth_path" in read(out, "val").get_data_info(0)
    options = json.loads((tmp_path / "rooms" / "rooms_val.json").read_text())["options"]
    assert (options["materials"], options["image_size"]) == ([20, 30], [24, 32])
    with pytest.raises(SystemExit, match="nothing is overwritten"):
        command.main(["--out", out, "--train", "3", "--val", "1", *size])
    with pytest.raises(SystemExit):
        command.main(["--out", out, "--train-seed", "5", "--val-seed", "5"])
    assert "both 5" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["--out", out, "--missing", "depth"])
    assert "expected NAME=SHARE" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="'colour' is not one of"):
        command.main(["--out", str(tmp_path / "b"), "--missing", "colour=0.5"])
    with pytest.raises(SystemExit, match=r"^rooms: unknown options \['colour'\]"):
        command.main(["--out", str(tmp_path / "b"), "--options", "colour=red"])
