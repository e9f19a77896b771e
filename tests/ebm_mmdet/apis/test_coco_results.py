"""What our detectors add to COCO's keys in the files of `predict`."""

from __future__ import annotations

import json
import math

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData

from ebm_mmdet import commands
from ebm_mmdet.apis.coco_results import coco_dataset, coco_fields, coco_results
from ebm_mmdet.apis.plain_fields import plain_fields
from tests.ebm_mmdet.apis.user_project import make_refined_project

NAN = float("nan")
ADDED = {"log_density", "accepted_steps", "side_std", "side_interval", "modes", "mode_mass"}


def a_sample():
    """Two boxes; the second has one mode, whose share is not known, and an f of NaN."""
    boxes = torch.tensor([[1.0, 2, 5, 8], [0, 0, 4, 4]])
    modes = torch.stack([boxes, torch.tensor([[1.0, 2, 5, 9], [NAN] * 4])], 1)
    return DetDataSample(
        pred_instances=InstanceData(
            bboxes=boxes,
            log_density=torch.tensor([1.23456, NAN]),
            accepted_steps=torch.tensor([3, 0]),
            side_std=torch.tensor([[0.5, 1, 1, 2], [torch.inf, 1, 1, 1]]),
            side_interval=torch.stack([boxes - 1, boxes + 1], -1),
            modes=modes,
            mode_mass=torch.tensor([[0.75, 0.25], [NAN, NAN]]),
        )
    )


def test_fields_of_our_detectors_are_plain_values():
    fields = plain_fields(a_sample())
    first, second = coco_fields(fields, 0), coco_fields(fields, 1)
    assert first == dict(
        log_density=1.2346,
        accepted_steps=3,
        side_std=[0.5, 1, 1, 2],
        side_interval=[[0, 2], [1, 3], [4, 6], [7, 9]],
        modes=[[1, 2, 4, 6], [1, 2, 4, 7]],
        mode_mass=[0.75, 0.25],
    )
    assert second["log_density"] is None
    assert second["side_std"] == [None, 1, 1, 1]
    assert second["modes"] == [[0, 0, 4, 4]]
    assert second["mode_mass"] == [None]
    assert first.keys() == ADDED
    json.dumps([first, second], allow_nan=False)


def test_both_files_have_them_and_those_of_other_detectors_do_not():
    boxes = a_sample().pred_instances.bboxes.tolist()
    plain = dict(bboxes=boxes, scores=[0.9, 0.8], labels=[0, 0])
    ours = plain | plain_fields(a_sample())
    for found, added in ((plain, set()), (ours, ADDED)):
        rows = coco_results([found], [1], [7])
        rows += coco_dataset([found], [("a.png", 9, 9)], ["ape"])["annotations"]
        assert len(rows) == 4
        assert all(ADDED & row.keys() == added for row in rows)
        json.dumps(rows, allow_nan=False)


def test_an_interval_that_is_not_finite_is_null_in_the_file():
    found = dict(bboxes=[[0, 0, 1, 1]], scores=[1.0], labels=[0])
    found["side_interval"] = [[[-math.inf, math.inf], [0.0, 1.00049], [0, 1], [0, 1]]]
    (result,) = coco_results([found], [1], [1])
    assert result["side_interval"][:2] == [[None, None], [0.0, 1.0]]
    assert "Infinity" not in json.dumps(result)


@pytest.mark.parametrize("ann", [[], ["--ann-file", "data/boxes.json"]])
def test_predict_writes_the_modes(tmp_path, monkeypatch, ann):
    monkeypatch.chdir(make_refined_project(tmp_path / "my work"))
    cfg = Config.fromfile("ebm.py")
    cfg.model.refiner.update(num_starts=3, start_std=0.2, num_samples=8, num_modes=3)
    cfg.dump("modes.py")
    arguments = ["predict", "modes.py", "best.pth", "data/im 1.png", "--out-dir", "out"]
    assert commands.main([*arguments, "--device", "cpu", *ann]) == 0
    if ann:
        rows = json.loads((tmp_path / "my work/out/results.bbox.json").read_text())
    else:
        rows = json.loads((tmp_path / "my work/out/coco.json").read_text())["annotations"]
    assert len(rows) == 5
    for row in rows:
        assert row["log_density"] is not None
        assert row["modes"][0] == row["bbox"]
        assert len(row["modes"]) == len(row["mode_mass"])
