"""Boxes of a file and a detector of maskrcnn-benchmark: read as those that it predicts."""

from __future__ import annotations

import copy
import json
import os

import numpy as np
import pytest
import torch
from mmengine.config import Config

from ebm_mmdet.apis import EBMInferencer, refine_file, write_energy_config
from ebm_mmdet.apis.auditing.annotations import read_annotations
from ebm_mmdet.apis.auditing.features import AuditImages
from ebm_mmdet.apis.auditing.scoring import score_image
from ebm_mmdet.apis.auditing.source import load_source
from ebm_mmdet.files import read_json, write_json
from ebm_mmdet.models.inclusive_boxes import rescale_inclusive, undo_rescale_inclusive
from tests.ebm_mmdet.apis.user_project import ONE_STAGE, make_project

QUIET = dict(device="cpu", say=lambda line: None)
ANN = "data/boxes.json"
SIDES = (192, 48)
"""Widths of the network's input; the image has 90, so that r is 2.13 and 0.53."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = make_project(tmp_path_factory.mktemp("inclusive") / "my work", ONE_STAGE)
    before = os.getcwd()
    os.chdir(folder)
    write_energy_config("my_detector.py", "epoch_12.pth", "usual.py")
    cfg = Config.fromfile("usual.py")
    cfg.model.legacy_plus_one = cfg.model.energy_head.legacy_plus_one = True
    cfg.model.refiner = dict(type="GradientAscentRefiner", step_size=1e-3, num_steps=3)
    for side in SIDES:
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            loader.dataset.pipeline[1].scale = (side, side)
        cfg.dump(f"{side}.py")
    torch.manual_seed(1)
    source = load_source(Config.fromfile("my_detector.py"), "epoch_12.pth", "cpu")
    torch.nn.init.normal_(source.model.energy_head.fc_energy.weight, std=1.0)
    meta = dict(dataset_meta=dict(classes=("ape", "bat", "cat")))
    torch.save(dict(state_dict=source.model.state_dict(), meta=meta), "mine.pth")
    os.chdir(before)
    return folder


@pytest.fixture(params=SIDES)
def side(request, made, monkeypatch):
    monkeypatch.chdir(made)
    return request.param


def rows_of(found):
    boxes = np.array(found["bboxes"], np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(boxes.tolist(), found["labels"], found["scores"])
    return [
        dict(image_id=71, category_id=10 * (label + 1), bbox=box, score=score)
        for box, label, score in rows
    ]


def refined(side, rows, tmp_path, name="out", **more):
    write_json(tmp_path / f"{name}_in.json", rows)
    out = tmp_path / f"{name}.json"
    more = dict(ann_file=ANN, **QUIET) | more
    summary = refine_file(
        f"{side}.py", "mine.pth", "data", tmp_path / f"{name}_in.json", out, **more
    )
    return json.loads(out.read_text()), summary


def xyxy(rows):
    boxes = np.array([row["bbox"] for row in rows], np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def test_refine_is_predict_on_the_file_of_its_detections(side, tmp_path):
    predict = EBMInferencer(f"{side}.py", "mine.pth", "cpu", show_progress=False)
    (before,) = predict("data/im 1.png", refine=False)["predictions"]
    (after,) = predict("data/im 1.png")["predictions"]
    assert max(after["accepted_steps"]) > 0
    rows, summary = refined(side, rows_of(before), tmp_path)
    assert summary["moved"] == sum(steps > 0 for steps in after["accepted_steps"])
    np.testing.assert_allclose(xyxy(rows), after["bboxes"], atol=2e-3)
    f = [row["log_density"] for row in rows]
    np.testing.assert_allclose(f, after["log_density"], atol=2e-3)
    still, _ = refined(side, rows_of(before), tmp_path, "still", steps=0)
    f = [row["log_density"] for row in still]
    np.testing.assert_allclose(f, before["log_density"], atol=2e-3)


def test_boxes_that_do_not_move_keep_their_numbers_however_often(side, tmp_path):
    rows = [dict(image_id=71, category_id=10, bbox=[10.123456789, 10, 30.5, 20], score=0.9)]
    first, summary = refined(side, rows, tmp_path, "0", steps=0)
    assert (summary["moved"], summary["mean_iou"]) == (0, 1.0)
    again, _ = refined(side, first, tmp_path, "1", steps=0)
    assert first[0]["bbox"] == again[0]["bbox"] == rows[0]["bbox"]


def test_a_box_without_a_pixel_in_the_network_is_said(side, tmp_path):
    narrow = [dict(image_id=71, category_id=10, bbox=[10, 10, 0.4, 20], score=0.9)]
    lines = []
    rows, summary = refined(side, narrow, tmp_path, say=lines.append)
    if side == SIDES[0]:  # 1 - 1/r is 0.53
        assert rows == narrow
        assert "1 box: narrower or lower than the 1 - 1/r pixels" in lines[-1]
    else:
        assert summary["refined"] == 1


def test_an_audit_asks_the_checkpoints_head_about_the_networks_boxes(side, tmp_path):
    source = load_source(Config.fromfile(f"{side}.py"), "mine.pth", "cpu")
    model = source.model
    annotations = read_annotations(ANN, "data", source.classes)
    images = AuditImages(source.cfg, annotations.images)
    r = images.see(model, 0).scale.double()

    def score(head):
        return score_image(model, head, images, 0, num_steps=5)

    inclusive = score(model.energy_head)
    fold = copy.deepcopy(model.energy_head)
    of_fold = score(fold)
    model.legacy_plus_one = False
    plain = score(fold)
    for key in ("proposal", "log_ratio", "shift", "spread", "evidence"):
        assert of_fold[key] == plain[key]  # it has learned from annotations times r
    here = images.images[0]
    here.boxes[:] = undo_rescale_inclusive(torch.from_numpy(here.boxes), r).numpy()
    asked = score(fold)
    for key in ("log_ratio", "shift", "spread", "evidence"):
        np.testing.assert_allclose(inclusive[key], asked[key], atol=2e-3)
    proposal = rescale_inclusive(torch.tensor(asked["proposal"]), r)
    np.testing.assert_allclose(inclusive["proposal"], proposal, atol=2e-3)
    assert inclusive["log_ratio"][0] > 0


def test_an_audit_finds_what_predict_gives(side, tmp_path):
    """Detections of legacy models are half open in the file's pixels too."""
    predict = EBMInferencer(f"{side}.py", "mine.pth", "cpu", show_progress=False)
    (found,) = predict("data/im 1.png", refine=False)["predictions"]
    listing = read_json(ANN)
    best = rows_of(found)[0]
    listing["annotations"] = [dict(best, id=1, iscrowd=0)]
    write_json(tmp_path / "ann.json", listing)
    source = load_source(Config.fromfile(f"{side}.py"), "mine.pth", "cpu")
    annotations = read_annotations(tmp_path / "ann.json", "data", source.classes)
    images = AuditImages(source.cfg, annotations.images)
    for head in (source.model.energy_head, copy.deepcopy(source.model.energy_head)):
        (detection,) = score_image(source.model, head, images, 0, num_steps=1)["detection"]
        np.testing.assert_allclose(detection, found["bboxes"][0], atol=2e-3)
