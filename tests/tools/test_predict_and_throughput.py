"""`tools/predict_images.py` and `tools/analysis_tools/throughput.py` on the tiny detector."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load_tool(name: str):
    path = ROOT / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


@pytest.fixture(scope="module", autouse=True)
def importable():
    """The config imports a module beside these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        yield


@pytest.fixture(scope="module")
def weights(tiny_config, tmp_path_factory):
    """Random weights of the tiny detector, as a checkpoint without a data set's names."""
    import torch
    from mmengine.config import Config

    from ebm_mmdet.apis import load_detector

    path = tmp_path_factory.mktemp("weights") / "random.pth"
    model = load_detector(Config.fromfile(tiny_config), None)
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


def test_predict_a_folder_once(tiny_config, weights, tmp_path, capsys):
    predict = load_tool("predict_images").main
    images, out = tiny_config.parent, tmp_path / "with blanks"
    command = [str(tiny_config), str(weights), str(images), "--out", str(out), "--score-thr", "0"]
    predict(command)
    boxes = json.loads((out / "boxes" / "2.json").read_text())
    assert boxes
    assert {box["label"] for box in boxes} <= {"square", "bar"}
    for name in "1234":
        assert (out / "pictures" / f"{name}.png").is_file()
    before = (out / "boxes" / "2.json").read_bytes()
    (out / "boxes" / "3.json").unlink()  # as if the run had been interrupted there
    capsys.readouterr()
    predict(command)
    printed = capsys.readouterr().out
    assert "3 of 4 images are done already" in printed
    assert "1/1 3.png" in printed
    assert (out / "boxes" / "2.json").read_bytes() == before
    with pytest.raises(SystemExit, match="other settings"):
        predict([*command[:-1], "0.5"])
    with pytest.raises(SystemExit, match="there is no checkpoint"):
        predict([*command[:1], str(tmp_path / "no.pth"), *command[2:4], str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


def test_weights_of_another_model_are_refused(tiny_config, tmp_path):
    import torch

    other = tmp_path / "other.pth"
    torch.save(dict(state_dict=dict(x=torch.zeros(1))), other)
    predict = load_tool("predict_images").main
    command = [str(tiny_config), str(other), str(tiny_config.parent), "--out", str(tmp_path / "o")]
    with pytest.raises(SystemExit, match="does not fit the model"):
        predict(command)
    assert not (tmp_path / "o").exists()


def test_throughput_of_a_config(tiny_config, weights, tmp_path, capsys):
    tool, out = load_tool("analysis_tools/throughput"), tmp_path / "speed.json"
    options = ["--checkpoint", str(weights), "--images", "3", "--warmup", "1", "--device", "cpu"]
    result = tool.main([str(tiny_config), *options, "--out", str(out)])
    assert json.loads(out.read_text()) == result
    parts = result["parts"]
    assert list(parts) == ["network", "with post-processing", "whole step"]
    for values in parts.values():
        assert values["images"] == 3
        assert 0 < values["quarter_ms"] <= values["median_ms"] <= values["three_quarters_ms"]
        assert values["images_per_s"] == pytest.approx(1e3 / values["median_ms"], rel=0.01)
    # The network alone does less than all of it: the refinement is post-processing.
    assert parts["network"]["median_ms"] < parts["with post-processing"]["median_ms"]
    assert "images/s" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        tool.main([str(tiny_config), "--out", str(out)])
    shape = tool.main([str(tiny_config), "--shape", "64", "96", *options[2:]])
    assert shape["parts"]["network"]["images"] == 3


def test_a_model_of_generated_images_reads_files(tmp_path):
    """The pipeline of generated rooms loads nothing, and its network has seen one size only."""
    import cv2
    import numpy as np
    from mmengine.config import Config

    from ebm_mmdet.apis import image_pipeline

    path = tmp_path / "photo of a room.png"
    cv2.imwrite(str(path), np.full((60, 90, 3), (10, 20, 30), np.uint8))
    load = image_pipeline(Config.fromfile(ROOT / "configs" / "rock" / "rooms_rock.py"))
    item = load(path, 7)
    assert item["inputs"].shape == (3, 96, 128)
    assert item["inputs"][:, 0, 0].tolist() == [10, 20, 30]
    sample = item["data_samples"]
    assert (sample.img_id, sample.ori_shape, sample.img_shape) == (7, (60, 90), (96, 128))
    assert sample.scale_factor == pytest.approx((128 / 90, 96 / 60))
