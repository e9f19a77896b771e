"""`audit` from a user's folder to a page: interrupted, continued, and refused where it must."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from ebm_mmdet import commands
from ebm_mmdet.apis import audit, write_energy_config
from ebm_mmdet.apis.auditing import run
from ebm_mmdet.apis.auditing.calibration import evidence_against
from ebm_mmdet.apis.auditing.folds import new_gaussian
from ebm_mmdet.apis.auditing.source import load_source
from ebm_mmdet.apis.fitting.training import HeadTraining
from ebm_mmdet.files import read_json, write_json
from tests.ebm_mmdet.apis.user_project import ONE_STAGE, make_project

QUICK = dict(folds=3, minutes=100, max_iters=4, device="cpu")
FILES = ("my_detector.py", "epoch_12.pth", "data/boxes.json")


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path / "my work", ONE_STAGE))
    return tmp_path / "my work"


def test_interrupted_continued_and_complete(project, monkeypatch):
    step, steps = HeadTraining._step, []

    def interrupted(self, *arguments):
        if len(steps) == 6:  # in the second head
            raise KeyboardInterrupt
        steps.append(1)
        return step(self, *arguments)

    monkeypatch.setattr(HeadTraining, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        audit(*FILES, "out", **QUICK)
    monkeypatch.setattr(HeadTraining, "_step", lambda *a: steps.append(1) or step(*a))
    score, scored = run.score_image, []

    def interrupted_later(*arguments, **more):
        if len(scored) == 3:  # one to measure the time, two of three images
            raise KeyboardInterrupt
        scored.append(1)
        return score(*arguments, **more)

    monkeypatch.setattr(run, "score_image", interrupted_later)
    with pytest.raises(KeyboardInterrupt):
        audit(*FILES, "out", **QUICK)
    assert len(steps) == 12  # three heads, four iterations each
    monkeypatch.setattr(run, "score_image", score)
    lines = []
    done = audit(*FILES, "out", **QUICK, say=lines.append)
    assert len(steps) == 12
    assert "going on in out" in lines
    assert done["complete"]
    assert done["audited"] == 3
    assert (project / "out" / "index.html").is_file()
    assert list((project / "out" / "pictures").glob("*.jpg"))
    assert len(read_json(project / "out" / "audit_coco.json")["annotations"]) == 3
    # Again: nothing is trained or scored. Another setting is refused.
    assert audit(*FILES, "out", **QUICK)["audited"] == 3
    assert len(steps) == 12
    with pytest.raises(FileExistsError, match="an audit with another folds; give a new --out"):
        audit(*FILES, "out", **{**QUICK, "folds": 2})


def test_each_image_is_judged_by_a_head_that_has_not_seen_it(project, monkeypatch):
    seen: dict[int, set] = {}
    make, draws = run.ViewCache.without, []

    def without(self, left_out):
        draws.append(set(left_out))
        return make(self, left_out)

    def score(model, head, images, index, **more):
        seen.setdefault(id(head), set()).add(index)
        return run_score(model, head, images, index, **more)

    run_score = run.score_image
    monkeypatch.setattr(run.ViewCache, "without", without)
    monkeypatch.setattr(run, "score_image", score)
    audit(*FILES, "out", **QUICK)
    judged = list(seen.values())[1:]  # the first only measures the time
    assert sorted(map(sorted, judged)) == sorted(map(sorted, draws)) == [[0], [1], [2]]


def test_time_that_runs_out_is_said_and_more_goes_on(project):
    lines = []
    short = {**QUICK, "folds": 0, "minutes": 1e-4}
    done = audit(*FILES, "out", **short, say=lines.append)
    assert not done["complete"]
    assert done["audited"] == 1
    assert any("more --minutes goes on" in line for line in lines)
    assert audit(*FILES, "out", **{**short, "minutes": 100})["audited"] == 3


@pytest.mark.parametrize("change", ["repaired", "gone", "another"])
def test_an_audit_does_not_go_on_with_other_images(project, change):
    """Results are by position: with one image more, each would be of its neighbour."""
    first = sorted((project / "data").glob("*.png"))[0]
    whole = first.read_bytes()
    if change == "repaired":
        first.write_bytes(whole[:50])
    settings = {**QUICK, "folds": 2}
    audit(*FILES, "out", **settings)
    before = (project / "out" / "audit_coco.json").read_bytes()
    if change == "repaired":
        first.write_bytes(whole)
    elif change == "gone":
        first.unlink()
    else:
        picture = cv2.imread(str(first))
        cv2.imwrite(str(first), 255 - picture // 3)
    said = dict(repaired="can be read", gone="cannot be read any more", another="has changed")
    with pytest.raises(FileExistsError, match=rf"1 differ.*which {said[change]}.*a new --out"):
        audit(*FILES, "out", **settings)
    assert (project / "out" / "audit_coco.json").read_bytes() == before
    assert audit(*FILES, "new", **settings)["complete"]


def test_heads_whose_time_was_over_are_said(project):
    lines = []
    audit(*FILES, "out", say=lines.append, **{**QUICK, "minutes": 1e-4, "max_iters": 1000})
    assert any("iterations in" in line and "the time for it was over" in line for line in lines)
    assert any("of 1000; a new --out with more --minutes trains them longer" in x for x in lines)


def test_the_head_of_a_checkpoint_judges_without_folds(project):
    path = write_energy_config("my_detector.py", "epoch_12.pth", "mine_ebm.py")
    source = load_source(Config.fromfile("my_detector.py"), "epoch_12.pth", "cpu")
    meta = dict(dataset_meta=dict(classes=("ape", "bat", "cat")))
    torch.save(dict(state_dict=source.model.state_dict(), meta=meta), "mine.pth")
    lines = []
    done = audit(path, "mine.pth", FILES[2], "out", say=lines.append, **{**QUICK, "folds": 0})
    assert done["audited"] == 3
    assert any("head of the checkpoint" in line for line in lines)
    assert not (project / "out" / "heads").exists()
    # A plain checkpoint loads into the same config, and has no head that could judge.
    audit(path, "epoch_12.pth", FILES[2], "plain", **{**QUICK, "folds": 0})
    assert (project / "plain" / "heads" / "0.pth").is_file()


def test_the_evidence_is_the_log_ratio_of_f_and_the_surprise_of_a_gaussian(project):
    audit(*FILES, "out", **QUICK)
    with open("out/audit.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    ratio, surprise, evidence = (
        np.array([float(row[key]) for row in rows]) for key in ("log_ratio", "surprise", "evidence")
    )
    # Few of three boxes are confirmed by this detector, so that all tell what is usual.
    expected = evidence_against(ratio, surprise, np.ones(len(rows), bool))
    np.testing.assert_allclose(evidence, expected, atol=1e-3)
    assert len(set(surprise)) == len(rows)
    content = read_json(project / "out" / "audit_coco.json")
    against = sorted(each["audit_evidence"] for each in content["annotations"])
    np.testing.assert_allclose(against, np.sort(evidence), atol=1e-3)


def test_mirror_images_of_the_training_judge_too(project, monkeypatch):
    config = project / "my_detector.py"
    step = "dict(type='RandomFlip', prob=0.5, direction='vertical'), pack]))"
    config.write_text(config.read_text().replace("pack]))\nval", f"{step}\nval"))
    asked, see = [], run.AuditImages.see
    monkeypatch.setattr(
        run.AuditImages,
        "see",
        lambda self, model, index, flips: asked.append(flips) or see(self, model, index, flips),
    )
    audit(*FILES, "out", **QUICK)
    assert {tuple(flips) for flips in asked} == {("", "vertical")}
    assert audit(*FILES, "out", **QUICK)["audited"] == 3  # the same folder, by the same call
    with pytest.raises(FileExistsError, match="an audit with another flips"):
        audit(*FILES, "out", **QUICK, flips=False)
    asked.clear()
    arguments = ["audit", *FILES[:2], "--ann", FILES[2], "--out", "plain", "--folds", "3"]
    assert commands.main([*arguments, "--max-iters", "4", "--device", "cpu", "--no-flips"]) == 0
    assert {tuple(flips) for flips in asked} == {("",)}
    ratios = []
    for folder in ("out", "plain"):
        content = read_json(project / folder / "audit_coco.json")
        ratios.append([each["audit_log_ratio"] for each in content["annotations"]])
    assert ratios[0] != ratios[1]


def test_heads_without_noise_are_audited_by_f_alone(project):
    path = write_energy_config("my_detector.py", "epoch_12.pth", "mine_ebm.py")
    cfg = Config.fromfile(path)
    cfg.model.energy_head.objective = dict(type="DSMObjective", sigma=0.075, num_samples=4)
    cfg.dump("other_ebm.py")
    source = load_source(Config.fromfile("other_ebm.py"), "epoch_12.pth", "cpu")
    assert new_gaussian(source) == {}
    assert audit("other_ebm.py", *FILES[1:], "out", **QUICK)["audited"] == 3
    with open("out/audit.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(row["surprise"] == "" and row["evidence"] == row["log_ratio"] for row in rows)


def test_without_classes_detections_have_none_and_one_f_judges(project, monkeypatch):
    """Annotations whose categories are not those of the detector, and a head of several classes."""
    content = read_json(project / FILES[2])
    content["categories"] = [
        dict(id=each["id"], name=f"x{each['id']}") for each in content["categories"]
    ]
    write_json(project / "data/others.json", content)
    names = {each["id"]: each["name"] for each in content["categories"]}
    files = (*FILES[:2], "data/others.json")
    with pytest.raises(ValueError, match="none is the same.*--class-blind"):
        audit(*files, "out", **QUICK)
    heads, see, labels = [], run.AuditImages.see, []

    def score(model, head, images, index, **more):
        heads.append(head)
        labels.extend(see(images, model, index).labels.tolist())
        return score_image(model, head, images, index, **more)

    score_image = run.score_image
    monkeypatch.setattr(run, "score_image", score)
    done = audit(*files, "out", class_blind=True, **QUICK)
    assert done["audited"] == 3
    assert set(labels) == {0}
    assert all(head.class_agnostic for head in heads)
    with open("out/audit.csv", newline="") as file:
        found = {row["id"]: row["category"] for row in csv.DictReader(file)}
    assert found == {str(row["id"]): names[row["category_id"]] for row in content["annotations"]}
    with pytest.raises(FileExistsError, match="another annotations, class_blind"):
        audit(*FILES, "out", **QUICK)
    arguments = ["audit", *files[:2], "--ann", files[2], "--out", "typed", "--class-blind"]
    assert commands.main([*arguments, "--max-iters", "2", "--folds", "2", "--enlarge", "2"]) == 0
    enlarged = heads[-1]
    assert enlarged.class_agnostic
    assert enlarged.strides[0] * 2 == heads[0].strides[0]

    source = load_source(Config.fromfile("my_detector.py"), "epoch_12.pth", "cpu")
    head = {**source.cfg.model.energy_head, "class_agnostic": False}
    source.cfg.model.energy_head = head
    source.cfg.dump("mine_ebm.py")
    model = MODELS.build(source.cfg.model)
    meta = dict(dataset_meta=dict(classes=("ape", "bat", "cat")))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), "mine.pth")
    mine = ("mine_ebm.py", "mine.pth", files[2])
    with pytest.raises(ValueError, match="one f for each of 3 classes; train one with class_agn"):
        audit(*mine, "mine", class_blind=True, **QUICK | dict(folds=0))
    with pytest.raises(ValueError, match="enlarge=2, but the config has an energy head"):
        audit(*mine, "mine", class_blind=True, enlarge=2, **QUICK)
    heads.clear()
    assert audit(*mine, "mine", class_blind=True, **QUICK)["audited"] == 3
    assert [head.class_agnostic for head in heads] == [False, False, True, True, True]


def test_what_cannot_work_is_said_before_any_work(project, capsys):
    for change, match in (
        (dict(folds=1), "folds=1"),
        (dict(minutes=0), "minutes=0"),
        (dict(threshold=1), "threshold=1"),
        (dict(folds=4), "cannot be dealt out to 4 folds"),
    ):
        with pytest.raises(ValueError, match=match):
            audit(*FILES, "out", **{**QUICK, **change})
    content = json.loads((project / "data" / "boxes.json").read_text())
    for image in content["images"]:
        image["file_name"] = f"far/{image['file_name']}x"
    (project / "far.json").write_text(json.dumps(content))
    with pytest.raises(FileNotFoundError, match="give --images"):
        audit(*FILES[:2], "far.json", "out", **QUICK)
    for name in ("images", "annotations", "categories"):
        for part in (None, {}, 3):
            (project / "odd.json").write_text(json.dumps({**content, name: part}))
            with pytest.raises(ValueError, match=rf"odd\.json is not .* format: '{name}'"):
                audit(*FILES[:2], "odd.json", "out", **QUICK)
    (project / "odd.json").write_text(json.dumps({**content, "images": []}))
    with pytest.raises(ValueError, match="lists no image"):
        audit(*FILES[:2], "odd.json", "out", **QUICK)
    assert not (project / "out").exists()
    assert commands.main(["audit", "--ann", FILES[2], "--out", "out"]) == 1
    assert "CONFIG and CHECKPOINT" in capsys.readouterr().err
    (project / "out").mkdir()
    (project / "out" / "thesis.tex").write_text("mine")
    assert commands.main(["audit", *FILES[:2], "--ann", FILES[2], "--out", "out"]) == 1
    assert "something else in it; give a new --out," in capsys.readouterr().err


def test_the_detector_stays_as_it_is(project):
    before = (project / "epoch_12.pth").read_bytes(), (project / FILES[2]).read_bytes()
    arguments = ["audit", *FILES[:2], "--ann", FILES[2], "--out", "out", "--folds", "3"]
    assert commands.main([*arguments, "--max-iters", "2", "--device", "cpu"]) == 0
    assert before == ((project / "epoch_12.pth").read_bytes(), (project / FILES[2]).read_bytes())
