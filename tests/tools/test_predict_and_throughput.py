"""`python -m ebm_mmdet predict` and `tools/analysis_tools/throughput.py` on the tiny detector."""

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


def test_predict_a_folder_once(tiny_config, weights, tmp_path, capsys, monkeypatch):
    """An interrupted prediction goes on with the image that it had not done."""
    from ebm_mmdet.apis import EBMInferencer
    from ebm_mmdet.commands import main

    images, out = tiny_config.parent, tmp_path / "with blanks"
    command = ["predict", str(tiny_config), str(weights), str(images), "--out-dir", str(out)]
    command += ["--device", "cpu", "--score-thr", "0"]
    forward, seen = EBMInferencer.forward, []

    def interrupted(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(EBMInferencer, "forward", interrupted)
    assert main(command) == 130
    assert "the same command goes on" in capsys.readouterr().out
    assert not (out / "coco.json").exists()
    assert main([*command, "--no-refine"]) == 1
    assert "its interrupted run had another refine;" in capsys.readouterr().err
    assert main(command) == 0
    assert len(seen) == 5  # two done, one interrupted, two left
    result = json.loads((out / "coco.json").read_text())
    assert [Path(each["file_name"]).name for each in result["images"]] == [
        f"{name}.png" for name in "1234"
    ]
    assert {each["name"] for each in result["categories"]} == {"square", "bar"}
    assert len(result["annotations"]) > 4
    assert {each["image_id"] for each in result["annotations"]} == {1, 2, 3, 4}
    assert sorted(path.name for path in out.iterdir()) == ["coco.json", "vis"]
    assert sorted(path.name for path in (out / "vis").iterdir()) == [f"{n}.png" for n in "1234"]
    whole = tmp_path / "whole"
    command[command.index(str(out))] = str(whole)
    assert main([*command, "--no-pictures"]) == 0
    assert json.loads((whole / "coco.json").read_text()) == result
    assert main([*command, "--cfg-options", "model.refiner"]) == 1
    assert "expected KEY=VALUE" in capsys.readouterr().err


def test_scene_depth_and_normals_of_a_model_on_generated_images(tmp_path):
    """The whole way from image files to a user's files, with a model that has never read one."""
    import cv2
    import numpy as np
    import torch
    from mmengine.config import Config

    from ebm_mmdet.apis import EBMInferencer, load_detector

    cfg = Config.fromfile(ROOT / "configs" / "rock" / "rooms_rock.py")
    model = load_detector(cfg, None)
    meta = dict(dataset_meta=dict(model.dataset_meta))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / "w.pth")
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a room.png"), image)
    infer = EBMInferencer(cfg, str(tmp_path / "w.pth"), "cpu", show_progress=False)
    out = tmp_path / "out"
    (found,) = infer(str(tmp_path / "a room.png"), out_dir=out)["predictions"]
    assert np.load(out / "depth" / "a room.npy").ndim == 2
    assert np.load(out / "normals" / "a room.npy").shape[0] == 3
    lines = (out / "scene" / "a room.txt").read_text().splitlines()
    assert len(lines) == len(found["scene"]["scores"]) == 8
    assert {line.split()[1] for line in lines} == set(model.dataset_meta["scene_types"])
    assert cv2.imread(str(out / "vis" / "a room.png")).shape[1] > 2 * 90  # three panels
    boxes = np.array(found["bboxes"])
    assert (boxes[:, 2:].max(0) <= [91, 61]).all()  # in pixels of the file


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
