"""EBMInferencer and the commands around it, in a user's folder."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData, LabelData
from pycocotools.coco import COCO

from ebm_mmdet import diagnosis
from ebm_mmdet.apis import EBMInferencer
from ebm_mmdet.apis.coco_results import CocoIds, coco_dataset, coco_results
from ebm_mmdet.apis.refiner_of_call import refiner_of_call
from ebm_mmdet.commands import main
from ebm_mmdet.energy import evaluate_only
from tests.ebm_mmdet.apis.user_project import make_refined_project


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A user's folder with the config and checkpoint of a refined detector (not trained)."""
    return make_refined_project(tmp_path_factory.mktemp("user") / "my work")


@pytest.fixture(scope="module")
def infer(project) -> EBMInferencer:
    return EBMInferencer(project / "ebm.py", project / "best.pth", "cpu", show_progress=False)


def images(project: Path) -> list[str]:
    return [str(project / "data" / f"im {number}.png") for number in (1, 2, 3)]


def test_boxes_before_and_after(infer, project):
    (found,) = infer(images(project)[0])["predictions"]
    (plain,) = infer(images(project)[0], refine=False)["predictions"]
    assert plain["bboxes"] == plain["detected_bboxes"] == found["detected_bboxes"]
    assert found["bboxes"] != found["detected_bboxes"]
    assert found["scores"] == plain["scores"]
    assert np.all(np.array(found["log_density"]) >= np.array(plain["log_density"]) - 1e-5)
    # What the model itself predicts.
    data = infer.collate_fn([infer.pipeline(images(project)[0])])
    with torch.no_grad():
        (sample,) = infer.model.test_step(data)
    assert sample.pred_instances.bboxes.tolist() == found["bboxes"]


def test_more_steps_by_an_argument(infer, project):
    own = infer.model.refiner
    few, many = (
        infer(images(project)[0], refine_steps=n)["predictions"][0]["accepted_steps"]
        for n in (1, 6)
    )
    assert max(few) <= 1 < max(many)
    assert infer.model.refiner is own
    assert own.num_steps == 3
    with pytest.raises(ValueError, match="refine_steps=2 without a refinement"):
        infer(images(project), refine=False, refine_steps=2)
    assert refiner_of_call(infer.model, False, None) is evaluate_only


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_give_the_same(infer, project, batch_size):
    alone = [infer(path)["predictions"][0] for path in images(project)]
    together = infer(project / "data", batch_size=batch_size)["predictions"]
    assert len(together) == 3
    for a, b in zip(alone, together):
        np.testing.assert_allclose(a["bboxes"], b["bboxes"], rtol=1e-3, atol=1e-2)


def test_pictures_and_a_data_set_in_coco_format(infer, project, tmp_path):
    out = tmp_path / "out put"
    array = cv2.imread(images(project)[0])
    twin = tmp_path / "twin" / "im 1.png"
    twin.parent.mkdir()
    cv2.imwrite(str(twin), array)
    found = infer([project / "data", str(twin), array], out_dir=out, pred_score_thr=0.0)
    names = sorted(path.name for path in (out / "vis").iterdir())
    assert names == ["00000004.png", "im 1.png", "im 1_2.png", "im 2.png", "im 3.png"]
    assert cv2.imread(str(out / "vis" / "im 1.png")).shape[1] == 600
    content = COCO(out / "coco.json")
    assert [each["name"] for each in content.dataset["categories"]] == ["ape", "bat", "cat"]
    assert [(each["width"], each["height"]) for each in content.dataset["images"]][:2] == [
        (90, 66),
        (90, 72),
    ]
    first = content.loadAnns(content.getAnnIds(imgIds=[1]))
    assert len(first) == len(found["predictions"][0]["bboxes"]) == 5
    x1, y1, x2, y2 = found["predictions"][0]["bboxes"][0]
    assert first[0]["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=1e-3)
    assert first[0]["category_id"] == found["predictions"][0]["labels"][0] + 1
    with pytest.raises(FileExistsError, match="out put is not empty"):
        infer(array, out_dir=out)


def test_results_with_the_ids_of_an_annotation_file(infer, project, tmp_path):
    truth = project / "data" / "boxes.json"
    infer(project / "data", out_dir=tmp_path / "a", ann_file=truth, no_save_vis=True)
    assert not (tmp_path / "a" / "vis").exists()
    results = json.loads((tmp_path / "a" / "results.bbox.json").read_text())
    assert {each["image_id"] for each in results} == {71, 72, 73}
    assert {each["category_id"] for each in results} <= {10, 20, 30}
    COCO(truth).loadRes(str(tmp_path / "a" / "results.bbox.json"))
    stranger = tmp_path / "stranger.png"
    cv2.imwrite(str(stranger), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"does not list .*stranger\.png"):
        infer(stranger, ann_file=truth)
    with pytest.raises(ValueError, match="has no category 'dog'"):
        CocoIds(truth, ["ape", "dog"])
    with pytest.raises(FileNotFoundError, match="no annotation file"):
        CocoIds(tmp_path / "no.json", ["ape"])


def test_an_image_that_cannot_be_read_is_left_out_and_named(infer, project, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"broken\.png is left out"):
        found = infer([broken, images(project)[0]], out_dir=tmp_path / "o", batch_size=2)
    assert len(found["predictions"]) == 1
    assert list(found["failed"]) == [str(broken)]
    content = json.loads((tmp_path / "o" / "coco.json").read_text())
    assert [each["file_name"] for each in content["images"]] == [images(project)[0]]


def test_the_spread_is_drawn_and_returned(project, tmp_path):
    cfg = Config.fromfile(project / "ebm.py")
    cfg.model.refiner = dict(type="ImportanceMeanRefiner", prior=dict(std=0.1), num_samples=16)
    sampled = EBMInferencer(cfg, project / "best.pth", "cpu", show_progress=False)
    found = sampled(images(project)[0], return_vis=True, pred_score_thr=0.0)
    assert np.shape(found["predictions"][0]["side_std"]) == (5, 4)
    bars = found["visualization"][0]
    without = sampled(images(project)[0], return_vis=True, pred_score_thr=0.0, refine=False)
    assert bars.dtype == np.uint8
    assert (
        bars.shape != without["visualization"][0].shape
        or (bars != without["visualization"][0]).any()
    )
    with pytest.raises(ValueError, match="ImportanceMeanRefiner takes none"):
        sampled(images(project)[0], refine_steps=2)


def test_a_detector_without_an_energy_head(project):
    plain = EBMInferencer(
        project / "my_detector.py", project / "epoch_12.pth", "cpu", show_progress=False
    )
    (found,) = plain(images(project)[0])["predictions"]
    assert len(found["bboxes"]) == 5
    assert "detected_bboxes" not in found


def test_names_of_classes_come_from_the_config_if_the_checkpoint_has_none(project, tmp_path):
    state = torch.load(project / "best.pth", weights_only=False)["state_dict"]
    torch.save(dict(state_dict=state), tmp_path / "bare.pth")
    with pytest.warns(UserWarning, match="class names are not saved"):
        bare = EBMInferencer(project / "ebm.py", tmp_path / "bare.pth", "cpu")
    assert bare.model.dataset_meta["classes"] == ("ape", "bat", "cat")


def test_the_commands(project, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(project)
    assert main(["inspect", "my_detector.py"]) == 0
    assert "strides=[8, 16, 32]" in capsys.readouterr().out
    assert main(["inspect", "nothing.py"]) == 1
    assert "nothing.py" in capsys.readouterr().err
    written = tmp_path / "w.py"
    assert main(["add-head", "my_detector.py", "epoch_12.pth", "--out", str(written)]) == 0
    assert main(["add-head", "my_detector.py", "epoch_12.pth", "--out", str(written)]) == 1
    assert "exists and is not overwritten" in capsys.readouterr().err
    out = str(tmp_path / "results")
    call = ["predict", "ebm.py", "best.pth", "data", "--out-dir", out, "--device", "cpu"]
    assert main([*call, "--refine-steps", "2", "--no-pictures"]) == 0
    assert "3 images, results in" in capsys.readouterr().out
    assert main(call) == 1
    assert "is not empty" in capsys.readouterr().err


def test_the_module_runs_a_command_or_the_diagnosis(monkeypatch, capsys):
    for arguments, expected in ((["--help"], "inspect"), (["predict", "--help"], "--refine-steps")):
        monkeypatch.setattr(sys, "argv", ["ebm_mmdet", *arguments])
        with pytest.raises(SystemExit) as done:
            runpy.run_module("ebm_mmdet", run_name="__main__")
        assert done.value.code == 0
        assert expected in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["ebm_mmdet"])
    monkeypatch.setattr(diagnosis, "main", lambda: 5)
    with pytest.raises(SystemExit) as done:
        runpy.run_module("ebm_mmdet", run_name="__main__")
    assert done.value.code == 5


def test_the_scene_of_a_rock_model_is_part_of_its_predictions(infer):
    sample = DetDataSample(
        pred_instances=InstanceData(
            bboxes=torch.zeros(1, 4), scores=torch.ones(1), labels=torch.zeros(1).long()
        )
    )
    sample.pred_scene = LabelData(scores=torch.tensor([0.25, 0.75]), ranking=torch.tensor([1, 0]))
    found = infer.pred2dict(sample)
    assert found["scene"] == dict(scores=[0.25, 0.75], ranking=[1, 0])
    assert json.loads(json.dumps(found)) == found


def test_a_box_that_is_not_finite_has_no_numbers_in_the_file():
    found = [dict(bboxes=[[0, 0, float("nan"), 4], [1, 2, 5, 6]], scores=[0.9, 0.8], labels=[0, 2])]
    content = coco_dataset(found, [("a.png", 9, 9)], ["ape"])
    first, second = content["annotations"]
    assert (first["bbox"], first["area"]) == ([0.0, 0.0, None, 4.0], None)
    assert (second["bbox"], second["area"]) == ([1.0, 2.0, 4.0, 4.0], 16.0)
    # More outputs than names: each has a category, and an annotation file cannot have one.
    assert [each["name"] for each in content["categories"]] == ["ape", "class 1", "class 2"]
    with pytest.raises(ValueError, match="label 2, but there are 1 classes"):
        coco_results(found, [1], [7])


@pytest.mark.parametrize("kind", ["concatenated", "repeated", "validation alone", "none"])
def test_the_pipeline_is_found_inside_any_test_data(project, kind):
    cfg = Config.fromfile(project / "ebm.py")
    one = cfg.test_dataloader.dataset
    if kind == "concatenated":
        cfg.test_dataloader.dataset = dict(type="ConcatDataset", datasets=[one, one])
    elif kind == "repeated":
        cfg.test_dataloader.dataset = dict(type="RepeatDataset", times=1, dataset=one)
    else:
        cfg.test_dataloader = None
    if kind == "none":
        cfg.val_dataloader = None
        with pytest.raises(ValueError, match="no test_dataloader, whose pipeline reads images"):
            EBMInferencer(cfg, project / "best.pth", "cpu", show_progress=False)
        return
    infer = EBMInferencer(cfg, project / "best.pth", "cpu", show_progress=False)
    found = infer(str(project / "data" / "im 1.png"))["predictions"]
    assert len(found[0]["bboxes"]) == 5


def test_an_interrupted_call_does_not_go_on_with_other_weights(project, tmp_path):
    weights, out = tmp_path / "best.pth", tmp_path / "out"
    weights.write_bytes((project / "best.pth").read_bytes())
    images = str(project / "data")

    def call(stop=False):
        infer = EBMInferencer(project / "ebm.py", weights, "cpu", show_progress=False)
        if stop:
            infer.postprocess = Mock(side_effect=KeyboardInterrupt)
        return infer(images, out_dir=out, no_save_vis=True)

    with pytest.raises(KeyboardInterrupt):
        call(stop=True)
    state = torch.load(weights, weights_only=True)
    state["state_dict"]["energy_head.fc_energy.bias"] += 1
    torch.save(state, weights)  # a training has gone on
    with pytest.raises(FileExistsError, match="weights"):
        call()
    weights.write_bytes((project / "best.pth").read_bytes())
    assert len(call()["predictions"]) == 3
