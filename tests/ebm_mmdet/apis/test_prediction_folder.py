"""Files that predictions are written to, and folders that are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, LabelData, PixelData
from PIL import Image

from ebm_mmdet.apis.image_list import unique_stems
from ebm_mmdet.apis.prediction_folder import PredictionFolder

META = dict(classes=("cat", "dog"), scene_types=("attic", "bath"))


def make_sample(tasks: bool = True) -> DetDataSample:
    sample = DetDataSample(pred_instances=InstanceData(bboxes=torch.zeros(0, 4)))
    if tasks:
        scores = torch.tensor([0.25, 0.75])
        sample.pred_scene = LabelData(scores=scores, ranking=scores.argsort(descending=True))
        sample.pred_depth = PixelData(depth=torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
        normals = torch.zeros(3, 2, 2)
        normals[2] = 1
        sample.pred_normals = PixelData(normals=normals)
    return sample


def test_scene_depth_and_normals_of_an_image(tmp_path):
    out = tmp_path / "with blanks"
    folder = PredictionFolder(out, dict(a=1))
    folder.write("a room", make_sample(), META, dict(found=[1]))
    assert (out / "scene" / "a room.txt").read_text() == "0.7500 bath\n0.2500 attic\n"
    np.testing.assert_array_equal(np.load(out / "depth" / "a room.npy"), [[1, 2], [3, 4]])
    grey = np.asarray(Image.open(out / "depth" / "a room.png"))
    np.testing.assert_array_equal(grey, [[191, 128], [64, 0]])
    assert np.load(out / "normals" / "a room.npy").shape == (3, 2, 2)
    rgb = np.asarray(Image.open(out / "normals" / "a room.png"))
    np.testing.assert_array_equal(rgb[0, 0], [128, 128, 255])
    assert not list(out.rglob("*.partial"))
    folder.finish("all.json", [3])
    names = sorted(path.name for path in out.iterdir())
    assert names == ["all.json", "depth", "normals", "scene"]


def test_an_unfinished_run_goes_on_and_no_other(tmp_path):
    out = tmp_path / "out"
    first = PredictionFolder(out, dict(a=1))
    assert not first.resumed
    assert first.done("x") is None
    first.write("x", make_sample(tasks=False), META, dict(found=[1]))
    again = PredictionFolder(out, dict(a=1))
    assert again.resumed
    assert again.done("x") == dict(found=[1])
    with pytest.raises(FileExistsError, match="interrupted run had another a;"):
        PredictionFolder(out, dict(a=2))
    again.finish("all.json", [])
    assert [path.name for path in out.iterdir()] == ["all.json"]
    with pytest.raises(FileExistsError, match="is not empty; give a new folder"):
        PredictionFolder(out, dict(a=1))
    with pytest.raises(FileExistsError, match="is a file"):
        PredictionFolder(out / "all.json", dict(a=1))


def test_every_image_has_a_name_of_its_own():
    paths = ["a/x.png", "b/x.jpg", "x_2.png", "x.png", dict(img_path="c/x.png")]
    assert unique_stems(paths) == ["x", "x_2", "x_2_2", "x_3", "x_4"]
    assert unique_stems([np.zeros((2, 2, 3)), np.zeros((2, 2, 3))]) == ["00000000", "00000001"]


def test_nothing_is_written_before_there_is_a_result(tmp_path):
    PredictionFolder(tmp_path / "out", dict(a=1))
    assert not (tmp_path / "out").exists()
    PredictionFolder(tmp_path / "out", dict(a=2)).claim()
    with pytest.raises(FileExistsError, match="interrupted run had another a;"):
        PredictionFolder(tmp_path / "out", dict(a=1))
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        PredictionFolder(tmp_path / "file" / "out", dict(a=1))


def test_a_run_that_left_images_out_goes_on(tmp_path):
    first = PredictionFolder(tmp_path / "out", dict(a=1))
    first.write("x", make_sample(tasks=False), META, dict(found=[1]))
    first.finish("all.json", [1], complete=False)
    again = PredictionFolder(tmp_path / "out", dict(a=1))
    assert again.done("x") == dict(found=[1])
    again.finish("all.json", [1, 2])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["all.json"]
    assert (tmp_path / "out" / "all.json").read_text() == "[\n 1,\n 2\n]\n"
