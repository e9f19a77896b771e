"""Boxes of a file: what is refined, what stays, and what is said about the rest."""

from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from pycocotools.coco import COCO

from ebm_mmdet import commands
from ebm_mmdet.apis import refine_file
from ebm_mmdet.apis.box_file import read_boxes
from tests.ebm_mmdet.apis.boxes_project import (
    QUIET,
    REFINE,
    make_boxes_project,
    results,
    write,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_boxes_project(tmp_path_factory.mktemp("refine") / "my work")


@pytest.fixture
def project(made, monkeypatch, tmp_path):
    monkeypatch.chdir(made)
    return tmp_path


def refined_by(project, model, rows, checkpoint="mine.pth", **more):
    """The rows of a call, and its summary, with further settings of the model."""
    cfg = Config.fromfile("mine_ebm.py")
    cfg.merge_from_dict(copy.deepcopy(dict(model=model)))  # it takes _delete_ out
    cfg.dump(project / "other.py")
    boxes, out = write(project / "given.json", rows), project / "refined.json"
    out.unlink(missing_ok=True)
    more = dict(ann_file="data/boxes.json", **QUIET) | more
    done = refine_file(project / "other.py", checkpoint, "data", boxes, out, **more)

    def refuse(value):
        raise AssertionError(f"{value} is not JSON")

    return json.loads(out.read_text(), parse_constant=refuse), done


MODES = dict(num_starts=3, start_std=0.2, num_samples=8, num_modes=3)
SAMPLER = dict(
    _delete_=True, type="ImportanceMeanRefiner", prior=dict(std=[0.05] * 4), num_samples=32
)


def test_results_keep_order_scores_ids_and_keys(project):
    given = results()
    boxes, out = write(project / "in.json", given), project / "out.json"
    done = refine_file(*REFINE, boxes, out, ann_file="data/boxes.json", **QUIET)
    rows = json.loads(out.read_text())
    assert done["boxes"] == done["refined"] == 3
    assert done["moved"] >= 1
    for old, new in zip(given, rows, strict=True):
        kept = {key: value for key, value in old.items() if key != "bbox"}
        assert kept.items() <= new.items()
        assert np.isfinite(new["log_density"])
        assert (new["accepted_steps"] > 0) == (new["bbox"] != old["bbox"])
    COCO("data/boxes.json").loadRes(str(out))
    with pytest.raises(FileExistsError):
        refine_file(*REFINE, boxes, out, ann_file="data/boxes.json", **QUIET)


def test_without_steps_boxes_keep_their_numbers(project):
    boxes = write(project / "in.json", results(bbox=[10.123456789, 10, 30.987654321, 20]))
    refine_file(*REFINE, boxes, project / "o.json", ann_file="data/boxes.json", steps=0, **QUIET)
    rows = json.loads((project / "o.json").read_text())
    assert [row["bbox"] for row in rows] == [row["bbox"] for row in json.loads(boxes.read_text())]


@pytest.mark.parametrize("refiner", [{}, MODES, SAMPLER])
def test_the_least_score_of_the_own_detector_is_not_applied(project, refiner):
    low = [dict(row, score=0.01) for row in results()]
    model = dict(refiner=refiner)
    usual, done = refined_by(project, model, low)
    assert done["moved"] > 0
    assert refined_by(project, model | dict(min_score=0.3), low) == (usual, done)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("clip", [True, False, "all"])
@pytest.mark.parametrize("refiner", [{}, MODES])
def test_boxes_over_the_border_that_do_not_move_keep_their_numbers(project, clip, legacy, refiner):
    state = torch.load("mine.pth", weights_only=True)
    state["state_dict"]["energy_head.fc_energy.weight"].zero_()  # nowhere is f higher
    torch.save(state, project / "flat.pth")
    given = results(bbox=[60.123456789, 40, 60, 60], area=3600)
    model = dict(legacy_plus_one=legacy, clip_boxes=clip, refiner=refiner)
    model["energy_head"] = dict(legacy_plus_one=legacy)
    rows, done = refined_by(project, model, given, checkpoint=project / "flat.pth")
    assert (done["refined"], done["moved"], done["mean_iou"]) == (3, 0, 1.0)
    for old, new in zip(given, rows, strict=True):
        assert new["bbox"] == old["bbox"]
        assert new.get("area") == old.get("area")
        assert not refiner or new["modes"][0] == old["bbox"]


def test_a_moved_box_is_clipped_as_the_model_says(project):
    given = results(bbox=[60, 40, 60, 60])
    (first, *_), _ = refined_by(project, dict(clip_boxes="all"), given)
    assert first["accepted_steps"] > 0
    assert first["bbox"][0] + first["bbox"][2] <= 90
    assert first["bbox"][1] + first["bbox"][3] <= 66
    (first, *_), _ = refined_by(project, dict(clip_boxes=False), given)
    assert first["bbox"][0] + first["bbox"][2] > 90


def test_modes_and_spreads_are_in_the_file(project):
    rows, _ = refined_by(project, dict(refiner=MODES), results())
    for row in rows:
        assert 1 <= len(row["modes"]) == len(row["mode_mass"]) <= 3
        assert row["modes"][0] == row["bbox"]
        assert all(share is None or 0 <= share <= 1 for share in row["mode_mass"])
    rows, _ = refined_by(project, dict(refiner=SAMPLER), results())
    for row in rows:
        assert len(row["side_std"]) == 4
        assert all(std is not None and std >= 0 for std in row["side_std"])


def test_images_are_found_by_their_names(project):
    given = [dict(row, image_id=int(str(row["image_id"])[1:])) for row in results()]
    boxes = write(project / "in.json", given)  # 1 is "im 1.png"
    assert refine_file(*REFINE, boxes, project / "a.json", **QUIET)["refined"] == 3
    given = [dict(row, image_id=f"im {row['image_id']}") for row in given]
    write(boxes, given)
    assert refine_file(*REFINE, boxes, project / "b.json", **QUIET)["refined"] == 3
    first, second = (json.loads((project / f"{x}.json").read_text()) for x in "ab")
    assert [row["bbox"] for row in first] == [row["bbox"] for row in second]


def test_an_annotation_file_stays_one(project):
    done = refine_file(*REFINE, "data/boxes.json", project / "out.json", **QUIET)
    before = json.loads(Path("data/boxes.json").read_text())
    after = json.loads((project / "out.json").read_text())
    assert done["refined"] == 3
    assert {k: v for k, v in before.items() if k != "annotations"} == {
        k: v for k, v in after.items() if k != "annotations"
    }
    for old, new in zip(before["annotations"], after["annotations"], strict=True):
        assert new["area"] == pytest.approx(new["bbox"][2] * new["bbox"][3], abs=0.05)
        assert new["id"] == old["id"]


@pytest.mark.parametrize("mask", [[[1, 2, 3, 4, 5, 6]], dict(size=[66, 90], counts="abc")])
def test_masks_of_moved_boxes_are_said(project, mask):
    content = json.loads(Path("data/boxes.json").read_text())
    for row in content["annotations"][:2]:
        row["segmentation"] = mask
    content["annotations"][2]["segmentation"] = []
    boxes, lines = write(project / "masks.json", content), []
    done = refine_file(*REFINE, boxes, project / "a.json", device="cpu", say=lines.append)
    rows = json.loads((project / "a.json").read_text())["annotations"]
    pairs = list(zip(content["annotations"], rows))
    moved = sum(old["bbox"] != new["bbox"] for old, new in pairs[:2])
    assert done["with_masks"] == moved > 0
    (line,) = lines
    assert line.startswith(f"{moved} of the moved boxes have a mask (segmentation), which stays")
    assert all(old[key] == new[key] for old, new in pairs[:2] for key in ("segmentation", "area"))
    lines.clear()
    more = dict(steps=0, device="cpu", say=lines.append)
    assert refine_file(*REFINE, boxes, project / "b.json", **more)["with_masks"] == 0
    assert not lines


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (dict(image_id=99), "the image id is not known"),
        (dict(bbox=[10, 10, -5, 20]), "width or height is negative"),
        (dict(bbox=[10, 10, 5, 0]), "no area"),
        (dict(bbox=[10, 10, 30, 20, 0.4]), "a rotated box"),
        (dict(bbox=[10, 10, float("inf"), 20]), "a coordinate is not finite"),
        (dict(bbox=[float("nan"), 10, 30, 20]), "a coordinate is not finite"),
        (dict(bbox=[500, 10, 30, 20]), "outside the image"),
        (dict(iscrowd=1), "a crowd"),
        (dict(ignore=1), "a crowd"),
    ],
)
def test_what_cannot_be_refined_stays_and_is_said(project, change, reason):
    boxes = write(project / "in.json", results(**change))
    lines = []
    more = dict(ann_file="data/boxes.json", device="cpu", say=lines.append)
    done = refine_file(*REFINE, boxes, project / "out.json", **more)
    assert done["refined"] == 2
    rows = json.loads((project / "out.json").read_text())
    # As text: a number that is not one does not equal itself.
    assert json.dumps(rows[0]) == json.dumps(json.loads(boxes.read_text())[0])
    assert all(np.isfinite([*row["bbox"], row["log_density"]]).all() for row in rows[1:])
    (line,) = lines
    assert line.startswith(f"left as they are: 1 box: {reason}")
    assert "entry 0" in line


def test_an_image_of_another_size_is_not_used(project):
    listing = json.loads(Path("data/boxes.json").read_text())
    listing["images"][0]["width"] = 45
    ann = write(project / "ann.json", listing)
    boxes = write(project / "in.json", results())
    lines = []
    more = dict(ann_file=ann, device="cpu", say=lines.append)
    assert refine_file(*REFINE, boxes, project / "out.json", **more)["refined"] == 1
    assert "90 x 66, not 45 x 66" in lines[0]


def test_annotations_may_have_an_empty_score_and_images_may_be_cut_off(project):
    whole = Path("data/im 1.png").read_bytes()
    images = project / "pictures"
    images.mkdir()
    (images / "im 1.png").write_bytes(whole[: len(whole) // 2])
    (images / "im 3.png").write_bytes(Path("data/im 3.png").read_bytes())
    boxes = write(project / "in.json", [dict(row, score=None) for row in results()])
    lines = []
    more = dict(ann_file="data/boxes.json", device="cpu", say=lines.append)
    done = refine_file(*REFINE[:2], images, boxes, project / "out.json", **more)
    assert done["refined"] == 1
    assert len(lines) == 1
    assert "2 boxes: the image cannot be read" in lines[0]


def test_where_the_result_cannot_be_written_is_said_before_any_work(project):
    boxes = write(project / "in.json", results())
    with pytest.raises(NotADirectoryError, match=r"in\.json is a file; give another --out"):
        refine_file(*REFINE, boxes, boxes / "out.json", **QUIET)


def test_proposals_of_mmdet(project):
    found = InstanceData()
    found.bboxes = np.array([[10, 10, 40, 30], [5, 5, 30, 60]], np.float32)
    found.scores = np.array([0.9, 0.1], np.float32)
    path = project / "proposals.pkl"
    path.write_bytes(pickle.dumps({"data/im 1.png": found}))
    done = refine_file(*REFINE, path, project / "out.json", **QUIET)
    rows = json.loads((project / "out.json").read_text())
    assert done["refined"] == 2
    assert rows[0]["image_id"] == "data/im 1.png"
    assert rows[0]["score"] == pytest.approx(0.9)


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trapped",)


def test_a_pickle_runs_nothing(project, monkeypatch):
    monkeypatch.chdir(project)
    path = project / "bad.pkl"
    path.write_bytes(pickle.dumps({"a": Trap()}))
    with pytest.raises(ValueError, match="mkdir"):
        read_boxes(path)
    assert not (project / "trapped").exists()


def test_files_that_cannot_be_read(project):
    boxes = write(project / "in.json", results())
    for content, match in (
        ({"boxes": []}, "neither a list"),
        ([dict(image_id=1)], "entry 0 has no bbox"),
        (results(image_id=[1]), r"entry 0 has image_id \[1\]; expected a number or a string"),
        (results(score="high"), "entry 0 has score 'high'; expected a number"),
        ([3], "neither a list"),
        (dict(images=None, annotations=[]), "'images' is missing; expected a list"),
        (dict(images=[], annotations={}), r"'annotations' is \{\}; expected a list"),
    ):
        with pytest.raises(ValueError, match=match):
            read_boxes(write(project / "odd.json", content))
    with pytest.raises(FileNotFoundError):
        read_boxes(project / "none.json")
    ann = write(project / "ann.json", dict(images=[], categories=3))
    with pytest.raises(ValueError, match="'categories' is 3; expected a list"):
        refine_file(*REFINE, boxes, project / "out.json", ann_file=ann, **QUIET)
    with pytest.raises(FileNotFoundError, match=r"annotation file .*none\.json"):
        refine_file(*REFINE, boxes, project / "out.json", ann_file=project / "none.json", **QUIET)
    with pytest.raises(FileNotFoundError, match="no folder"):
        refine_file(*REFINE[:2], project / "none", boxes, project / "out.json", **QUIET)
    with pytest.raises(ValueError, match="no energy head"):
        refine_file("my_detector.py", "epoch_12.pth", "data", boxes, project / "o.json", **QUIET)


def test_a_head_with_an_f_for_each_class_needs_the_names(project):
    Path("classes.py").write_text(
        "_base_ = './mine_ebm.py'\nmodel = dict(energy_head=dict(class_agnostic=False))\n"
    )
    state = torch.load("mine.pth", weights_only=True)
    for name in ("weight", "bias"):
        key = f"energy_head.fc_energy.{name}"
        state["state_dict"][key] = state["state_dict"][key].repeat_interleave(3, 0)
    torch.save(state, "classes.pth")
    boxes = write(project / "in.json", [dict(row, image_id=1) for row in results()])
    with pytest.raises(ValueError, match=r"categories' names \(--ann\)"):
        refine_file("classes.py", "classes.pth", "data", boxes, project / "o.json", **QUIET)
    boxes = write(project / "in.json", results(category_id=99))
    more = dict(ann_file="data/boxes.json", **QUIET)
    done = refine_file("classes.py", "classes.pth", "data", boxes, project / "o.json", **more)
    assert done["refined"] == 2
    assert "does not have the category" in done["lines"][0]


def test_the_command(project, capsys):
    boxes = write(project / "in.json", results())
    out = project / "out.json"
    arguments = ["refine", *REFINE[:2], "--images", "data", "--boxes", str(boxes)]
    arguments += ["--out", str(out), "--ann", "data/boxes.json", "--device", "cpu"]
    assert commands.main(arguments) == 0
    assert "3 of 3 boxes refined" in capsys.readouterr().out
    assert commands.main(arguments) == 1
    assert "not overwritten" in capsys.readouterr().err
