"""Files that predictions are written to, and folders that are refused."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, LabelData, PixelData
from PIL import Image

import ebm_mmdet  # noqa: F401  (registers the visualizer)
from ebm_mmdet.apis.prediction_folder import FolderError, PredictionFolder, find_images

META = dict(classes=("cat", "dog"), scene_types=("attic", "bath"))


def write_image(path, shape=(40, 60, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full(shape, 90, np.uint8))
    return path


def make_sample(tasks=True) -> DetDataSample:
    sample = DetDataSample()
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([[1.0, 2, 30, 20], [5, 5, 20.126, 30], [0, 0, 9, 9]]),
        scores=torch.tensor([0.5, 0.9, 0.1]),
        labels=torch.tensor([0, 1, 0]),
    )
    if tasks:
        scores = torch.tensor([0.25, 0.75])
        sample.pred_scene = LabelData(scores=scores, ranking=scores.argsort(descending=True))
        sample.pred_depth = PixelData(depth=torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
        normals = torch.zeros(3, 2, 2)
        normals[2] = 1
        sample.pred_normals = PixelData(normals=normals)
    return sample


def test_all_files_of_an_image(tmp_path):
    path = write_image(tmp_path / "in" / "a room.jpg")
    folder = PredictionFolder(tmp_path / "out", dict(a=1), META, 0.4)
    assert not folder.has(path)
    folder.write(path, make_sample())
    assert folder.has(path)
    out = tmp_path / "out"
    boxes = json.loads((out / "boxes" / "a room.json").read_text())
    assert boxes == [
        dict(bbox=[5, 5, 20.13, 30], score=0.9, label="dog"),
        dict(bbox=[1, 2, 30, 20], score=0.5, label="cat"),
    ]
    assert (out / "scene" / "a room.txt").read_text() == "0.7500 bath\n0.2500 attic\n"
    np.testing.assert_array_equal(np.load(out / "depth" / "a room.npy"), [[1, 2], [3, 4]])
    grey = np.asarray(Image.open(out / "depth" / "a room.png"))
    np.testing.assert_array_equal(grey, [[191, 128], [64, 0]])
    assert np.load(out / "normals" / "a room.npy").shape == (3, 2, 2)
    rgb = np.asarray(Image.open(out / "normals" / "a room.png"))
    np.testing.assert_array_equal(rgb[0, 0], [128, 128, 255])
    assert Image.open(out / "pictures" / "a room.png").size == (180, 40)
    assert not list(out.rglob("*.partial"))


def test_a_detector_without_auxiliary_tasks(tmp_path):
    path = write_image(tmp_path / "a.png")
    folder = PredictionFolder(tmp_path / "out", {}, dict(classes=("cat",)), 0.05)
    folder.write(path, make_sample(tasks=False))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "boxes",
        "pictures",
        "settings.json",
    ]
    labels = [b["label"] for b in json.loads((tmp_path / "out/boxes/a.json").read_text())]
    assert labels == ["class 1", "cat", "cat"]


def test_a_folder_with_other_content_is_refused_and_an_unfinished_run_goes_on(tmp_path):
    path = write_image(tmp_path / "a.png")
    PredictionFolder(tmp_path / "out", dict(a=1), META, 0.4).write(path, make_sample())
    assert PredictionFolder(tmp_path / "out", dict(a=1), META, 0.4).has(path)
    with pytest.raises(FolderError, match="other settings"):
        PredictionFolder(tmp_path / "out", dict(a=2), META, 0.4)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(FolderError, match="other content"):
        PredictionFolder(tmp_path / "mine", dict(a=1), META, 0.4)
    with pytest.raises(FolderError, match="is a file"):
        PredictionFolder(path, dict(a=1), META, 0.4)


def test_images_are_found_and_checked_before_work_starts(tmp_path):
    b, a = write_image(tmp_path / "in" / "b.JPG"), write_image(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "notes.txt").write_text("x")
    assert find_images(tmp_path / "in") == [a, b]
    assert find_images(b) == [b]
    write_image(tmp_path / "in" / "b.png")
    with pytest.raises(FolderError, match=r"b\.JPG and .*b\.png differ only in their ending"):
        find_images(tmp_path / "in")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "c.png").write_bytes(a.read_bytes()[:60])
    with pytest.raises(FolderError, match=r"c\.png is not a whole image"):
        find_images(tmp_path / "bad")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FolderError, match="has no image"):
        find_images(tmp_path / "empty")
    with pytest.raises(FolderError, match="there is no image or folder"):
        find_images(tmp_path / "nowhere")
