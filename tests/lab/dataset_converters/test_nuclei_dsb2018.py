"""The converter of the nuclei, on a folder as it is published, in miniature."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.lab.real_data import ROOT as DATA
from tests.lab.real_data import needs

ROOT = Path(__file__).parents[3]


@pytest.fixture
def tool(monkeypatch):
    path = ROOT / "tools" / "dataset_converters" / "nuclei_dsb2018.py"
    spec = importlib.util.spec_from_file_location("nuclei_dsb2018", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(tool, "SPLITS", {"test": 1, "val": 1, "train": 2})
    return tool


def write_image(source: Path, name: str, masks: list[np.ndarray], image: np.ndarray) -> None:
    folder = source / name
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    cv2.imwrite(str(folder / "images" / f"{name}.png"), image)
    for number, mask in enumerate(masks):
        cv2.imwrite(str(folder / "masks" / f"{number}.png"), mask)


def rectangle(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((40, 50), np.uint8)
    mask[rows, columns] = 255
    return mask


@pytest.fixture
def source(tmp_path) -> Path:
    """Five images, one of them too large, each with an L-shaped nucleus, a speck and no object."""
    root = tmp_path / "stage1_train"
    masks = [
        rectangle(slice(3, 20), slice(7, 15)) | rectangle(slice(12, 20), slice(7, 30)),
        rectangle(slice(0, 5), slice(20, 40)),
        rectangle(slice(0, 0), slice(0, 0)),
    ]
    grey = np.full((40, 50, 3), 90, np.uint8)
    for name in ("a", "b", "c", "d"):
        write_image(root, name, masks, grey)
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    write_image(root, "large", [], noise)
    return root


def test_boxes_are_the_extents_of_the_masks(tool, source, tmp_path, capsys):
    out = tmp_path / "my nuclei"
    tool.main([str(source), "--out", str(out)])
    # SHA-1 begins with: a 86f7, b e9d7, c 84a5, d 3c36.
    names = {"test": ["d"], "val": ["c"], "train": ["a", "b"]}
    for split, expected in names.items():
        content = json.loads((out / "annotations" / f"{split}.json").read_text())
        assert [image["file_name"] for image in content["images"]] == [f"{n}.png" for n in expected]
        for image in content["images"]:
            assert (image["width"], image["height"]) == (50, 40)
            assert (out / "images" / image["file_name"]).is_file()
            nucleus, speck = (
                box for box in content["annotations"] if box["image_id"] == image["id"]
            )
            assert (nucleus["bbox"], nucleus["area"]) == ([7, 3, 23, 17], 17 * 8 + 8 * 15)
            assert (nucleus["iscrowd"], speck["iscrowd"]) == (0, 1)
            assert speck["bbox"] == [20, 0, 20, 5]
        ids = [box["id"] for box in content["annotations"]]
        assert ids == list(range(1, len(ids) + 1))
    shown = capsys.readouterr().out
    assert "2 images, 4 boxes, of these 2 ignored; NOT the images of docs/results.md" in shown
    with pytest.raises(SystemExit):
        tool.main([str(source), "--out", str(out)])
    assert "exists; name a new folder" in capsys.readouterr().err


def test_what_is_wrong_is_named_and_nothing_is_written(tool, source, tmp_path):
    def fails(folder: Path, message: str) -> None:
        with pytest.raises(SystemExit, match=message):
            tool.main([str(folder), "--out", str(tmp_path / "out")])
        assert not (tmp_path / "out").exists()

    fails(tmp_path / "nowhere", "nowhere has no NAME/images/NAME.png")
    bad = source / "a" / "masks" / "0.png"
    cv2.imwrite(str(bad), np.ones((4, 4), np.uint8))
    fails(source, r"a/masks/0\.png has shape \(4, 4\), but its image \(40, 50\)")
    bad.write_bytes(b"no picture")
    fails(source, r"a/masks/0\.png is not a picture")
    for path in (source / "b").rglob("*.png"):
        path.unlink()
    fails(source, "3 images of at most 60000 bytes; the splits need 4")


@needs("nuclei_dsb2018")
def test_the_order_and_the_digests_are_those_of_the_published_numbers():
    """The images that were measured on are the 41st to the 180th in the order of the converter."""
    path = ROOT / "tools" / "dataset_converters" / "nuclei_dsb2018.py"
    spec = importlib.util.spec_from_file_location("converter", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    names, keys = {}, {}
    for split in ("val", "train"):
        file = DATA / "data" / "nuclei_dsb2018" / "annotations" / f"{split}.json"
        content = json.loads(file.read_text())
        names[split] = sorted(Path(image["file_name"]).stem for image in content["images"])
        keys[split] = [tool.order(name) for name in names[split]]
        assert len(names[split]) == tool.SPLITS[split]
        assert tool.digest(names[split]) == tool.PUBLISHED[split]
        for box in content["annotations"]:
            assert box["iscrowd"] == (min(box["bbox"][2:]) < tool.MIN_SIDE)
        for image in content["images"]:
            size = (file.parents[1] / "images" / image["file_name"]).stat().st_size
            assert size <= tool.MAX_BYTES
    assert max(keys["val"]) < min(keys["train"])
