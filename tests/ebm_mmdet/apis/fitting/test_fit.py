"""`fit` from a user's folder to a checkpoint: interrupted, continued, and refused where it must."""

from __future__ import annotations

import importlib
import json
import re

import pytest
import torch
from mmdet.apis import inference_detector
from mmdet.apis import init_detector as mmdets_init_detector

from ebm_mmdet import commands
from ebm_mmdet.apis import fit
from ebm_mmdet.apis.fitting.training import HeadTraining
from ebm_mmdet.engine import CheckpointError
from ebm_mmdet.files import read_json
from tests.ebm_mmdet.apis.user_project import ONE_STAGE, make_project

run_module = importlib.import_module("ebm_mmdet.apis.fitting.run")

# Its iterations end it, not its minutes: the machine of a test may be slow.
QUICK = dict(minutes=100, max_iters=6, device="cpu")


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path / "my work", ONE_STAGE))
    return tmp_path / "my work"


def test_interrupted_continued_and_complete(project, monkeypatch):
    real, steps = HeadTraining._step, []

    def interrupted(self, *arguments):
        if len(steps) == 3:
            raise KeyboardInterrupt
        steps.append(1)
        return real(self, *arguments)

    monkeypatch.setattr(HeadTraining, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit("my_detector.py", "epoch_12.pth", **QUICK)
    folder = project / "my_detector_fit"
    assert torch.load(folder / "training.pth", weights_only=True)["iteration"] == 3
    assert read_json(folder / "clock.json")["seconds"] > 0

    monkeypatch.setattr(HeadTraining, "_step", lambda *a: steps.append(1) or real(*a))
    lines = []
    result = fit("my_detector.py", "epoch_12.pth", **QUICK, say=lines.append)
    assert len(steps) == 6  # three of the first call, three of this one
    assert result["iterations"] == 6
    assert "going on in my_detector_fit" in lines
    assert any(line.startswith("2 images with 2 boxes to train on, 1 to tune on") for line in lines)
    assert any("training images too" in line for line in lines)  # this project validates on them
    assert result["pays"] is False
    assert [row["method"] for row in result["rows"]] == [
        "detector",
        "constant correction",
        "regression head",
        "energy head",
    ]
    page = (folder / "page.md").read_text()
    assert page.startswith(f"# {result['sentence']}")
    assert "model.flips" not in page  # the training has no flips
    for name in ("pictures/1.png", "pictures/3.png"):
        assert name in page
        assert (folder / name).is_file()

    # Config and checkpoint load by mmdet's own function, and the detector is the user's.
    model = mmdets_init_detector(result["config"], result["checkpoint"], device="cpu")
    assert len(inference_detector(model, "data/im 1.png").pred_instances.log_density) == 5
    plain = torch.load("epoch_12.pth", weights_only=True)["state_dict"]
    inside = model.detector.state_dict()
    assert all(torch.equal(inside[key], value) for key, value in plain.items())
    assert model.min_score == result["tuned"]["min_score"]
    assert model.dataset_meta["classes"] == ("ape", "bat", "cat")

    # Again: nothing is done. With other minutes, to which a complete fit has no use: a reason.
    assert not any("instead of" in line for line in lines)
    before = (folder / "result.json").read_bytes()
    assert fit("my_detector.py", "epoch_12.pth", **QUICK) == result
    with pytest.raises(FileExistsError, match="complete fit with another minutes, 100, .*--out-di"):
        fit("my_detector.py", "epoch_12.pth", **{**QUICK, "minutes": 1})
    assert (folder / "result.json").read_bytes() == before


@pytest.mark.parametrize("is_old", [False, True], ids=["this version", "an earlier one"])
def test_an_unfinished_fit_takes_other_minutes(project, monkeypatch, is_old):
    """They are planned with and said, also where the files are those of an earlier version."""

    def interrupted(*_):
        raise KeyboardInterrupt

    real = HeadTraining._step
    monkeypatch.setattr(HeadTraining, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit("my_detector.py", "epoch_12.pth", **QUICK)
    monkeypatch.setattr(HeadTraining, "_step", real)
    path = project / "my_detector_fit" / "plan.json"
    before = read_json(path)
    if is_old:
        before.pop("limit")
        path.write_text(json.dumps(before))
    with pytest.raises(FileExistsError, match="another seed; give a new --out-dir"):
        fit("my_detector.py", "epoch_12.pth", **QUICK, seed=1)
    lines, other = [], {**QUICK, "minutes": 150}
    result = fit("my_detector.py", "epoch_12.pth", **other, say=lines.append)
    assert any(line.startswith("150 minutes instead of 100, of which 1") for line in lines)
    whole = sum(value for key, value in read_json(path)["plan"].items() if key.endswith("_s"))
    assert whole == pytest.approx(9000, rel=0.1)
    assert read_json(path)["measured"] == before["measured"]
    assert result["iterations"] == 6
    assert fit("my_detector.py", "epoch_12.pth", **other) == result
    with pytest.raises(FileExistsError, match="complete fit with another minutes, 150, "):
        fit("my_detector.py", "epoch_12.pth", **QUICK)


def test_the_time_of_a_step_without_a_result_counts(project, monkeypatch):
    """As if the machine was slow, and Ctrl-C came before anything was measured."""

    def interrupted(kind, model, data, path, seconds, clock, *rest):
        clock._before += 70.0
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "measure_residuals", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit("my_detector.py", "epoch_12.pth", **QUICK)
    assert read_json(project / "my_detector_fit" / "clock.json")["seconds"] >= 70


def test_classes_of_checkpoint_and_data_are_compared_before_anything_is_read(project, monkeypatch):
    """As many under other names are a warning, another number is an error with both lists."""
    loaded = torch.load("epoch_12.pth", weights_only=True)
    read = []

    def stops(*_):
        read.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "split_data", stops)

    def lines_of(meta, config="my_detector.py"):
        content = loaded["state_dict"] if meta is None else {**loaded, "meta": meta}
        torch.save(content, "other.pth")
        lines = []
        with pytest.raises(KeyboardInterrupt):
            fit(config, "other.pth", **QUICK, say=lines.append)
        return lines

    assert lines_of(dict(dataset_meta=dict(classes=("ape", "bat", "cat")))) == []
    assert lines_of(dict(CLASSES=["ape", "bat", "cat"])) == []  # of mmdet 2
    assert lines_of(None) == []
    (line,) = lines_of(dict(dataset_meta=dict(classes=("ape", "bats", "cat"))))
    assert re.search("detector are ape, bats, cat, .* label 1 .* 'bats', counts .* 'bat'", line)
    number = len(read)
    torch.save({**loaded, "meta": dict(dataset_meta=dict(classes=("ape", "cat")))}, "two.pth")
    message = "two.pth has 2 classes, ape, cat, but .*train_dataloader has 3, ape, bat, cat: .*Give"
    refused(project, "", message, checkpoint="two.pth")
    cell = "dict(dataset=dict(metainfo=dict(classes=('cell',))))"
    message = "has 3 classes, ape, bat, cat, but the data of {}_dataloader has 1, cell"
    for name in ("train", "val"):
        refused(project, f"{name}_dataloader = {cell}", message.format(name))
    assert len(read) == number
    # A fit does not read what the config tests on.
    (project / "tests_other.py").write_text(
        f"_base_ = './my_detector.py'\ntest_dataloader = {cell}\n"
    )
    meta = dict(dataset_meta=dict(classes=("ape", "bat", "cat")))
    assert lines_of(meta, "tests_other.py") == []


def refused(project, text, match, error=ValueError, checkpoint="epoch_12.pth"):
    """The config with more lines is refused, and no folder is made."""
    config = project / "changed.py"
    config.write_text(f"_base_ = './my_detector.py'\n{text}\n")
    with pytest.raises(error, match=match):
        fit("changed.py", checkpoint, **QUICK)
    assert not (project / "changed_fit").exists()


def test_what_cannot_work_is_said_before_any_work(project, capsys):
    data = "train_dataloader = dict(dataset=dict({}))\n"
    refused(project, data.format("indices=1"), "has 1 image with boxes; at least 2")
    refused(project, data.format("ann_file='none.json'"), r"none\.json", FileNotFoundError)
    classes = "train_dataloader = dict(dataset=dict(metainfo=dict(classes=('ape', 'bat', 'cow'))))"
    refused(project, classes, "'cow'")
    few = "model = dict(bbox_head=dict(num_classes=2))"
    refused(project, few, "does not fit the detector", CheckpointError)
    state = torch.load("epoch_12.pth", weights_only=True)["state_dict"]
    for name in ("bbox_head.retina_cls.weight", "bbox_head.retina_cls.bias"):
        state[name] = state[name][:18]  # nine anchors of two classes
    torch.save(state, "two.pth")
    theirs = r"has 2 classes \(num_classes\), but the data of train_dataloader has 3, ape, bat, cat"
    refused(project, few, theirs, checkpoint="two.pth")
    five = "model = dict(bbox_head=dict(num_classes=5))"
    refused(project, five, "does not fit the detector", CheckpointError)
    refused(project, "", "no checkpoint absent.pth", FileNotFoundError, "absent.pth")
    with pytest.raises(ValueError, match="minutes=0"):
        fit("my_detector.py", "epoch_12.pth", minutes=0)
    (project / "my_detector_fit").mkdir()
    (project / "my_detector_fit" / "thesis.tex").write_text("mine")
    arguments = ["fit", "my_detector.py", "epoch_12.pth", "--minutes", "1", "--device", "cpu"]
    assert commands.main(arguments) == 1
    assert "something else in it" in capsys.readouterr().err


def test_a_folder_in_use_is_refused(project, monkeypatch):
    """Two fits never write into one folder; a process that has died does not hold it."""
    from ebm_mmdet.apis.fitting.folder import claim_folder, held

    folder, settings = project / "my fit", dict(seed=0)
    claim_folder(folder, settings)
    with held(folder):
        for again in (lambda: claim_folder(folder, settings), lambda: held(folder).__enter__()):
            with pytest.raises(FileExistsError, match="another process works in .*my fit"):
                again()
    assert claim_folder(folder, settings)
    real, quick = HeadTraining._step, {**QUICK, "max_iters": 1}

    def second_fit(self, *arguments):
        with pytest.raises(FileExistsError, match="another process works in my_detector_fit"):
            fit("my_detector.py", "epoch_12.pth", **quick)
        return real(self, *arguments)

    monkeypatch.setattr(HeadTraining, "_step", second_fit)
    fit("my_detector.py", "epoch_12.pth", **quick)


@pytest.mark.parametrize("enlarge", [1, 2])
def test_the_model_that_is_left_gives_the_boxes_that_were_judged(project, enlarge):
    """Also where the detector's boxes leave the image, and are too low to be refined."""
    config = project / "my_detector.py"
    config.write_text(
        config.read_text()
        + "model['bbox_head'].update(bbox_coder=dict(type='DeltaXYWHBBoxCoder', clip_border=False))"
        + "\nmodel['test_cfg'].update(nms=dict(type='nms', iou_threshold=0.99))\n"
    )
    result = fit("my_detector.py", "epoch_12.pth", **QUICK, enlarge=enlarge)
    model = mmdets_init_detector(result["config"], result["checkpoint"], device="cpu")
    assert model.clip_boxes == "all"
    assert model.enlarge == enlarge
    with pytest.raises(FileExistsError, match="enlarge"):
        fit("my_detector.py", "epoch_12.pth", **QUICK, enlarge=3)
    for name in ("data/im 1.png", "data/im 2.png"):
        found = inference_detector(model, name)
        boxes, (height, width) = found.pred_instances.bboxes, found.ori_shape[:2]
        limits = torch.tensor([width, height] * 2)
        assert ((boxes >= 0) & (boxes <= limits)).all()


@pytest.mark.parametrize("change", ["gone", "moved"])
def test_a_fit_does_not_go_on_with_other_data(project, monkeypatch, change):
    real = HeadTraining._step

    def interrupted(self, *arguments):
        if self.iteration == 2:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(HeadTraining, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit("my_detector.py", "epoch_12.pth", **QUICK)
    monkeypatch.setattr(HeadTraining, "_step", real)
    path = project / "data" / "boxes.json"
    before = path.read_text()
    content = json.loads(before)
    if change == "gone":
        content["annotations"] = content["annotations"][1:]
    else:
        content["annotations"][0]["bbox"][0] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(FileExistsError, match="other images or annotations .* new --out-dir"):
        fit("my_detector.py", "epoch_12.pth", **QUICK)
    path.write_text(before)
    assert fit("my_detector.py", "epoch_12.pth", **QUICK)["iterations"] == 6
