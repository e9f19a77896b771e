"""A refinement of a file that is interrupted: the same call goes on, and another one is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch

from ebm_mmdet import commands
from ebm_mmdet.apis import boxes_from_file, refine_file
from ebm_mmdet.apis.fitting.folder import held
from tests.ebm_mmdet.apis.boxes_project import (
    QUIET,
    REFINE,
    make_boxes_project,
    results,
    write,
)

BY_ANN = dict(ann_file="data/boxes.json", **QUIET)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_boxes_project(tmp_path_factory.mktemp("refine") / "my work")


@pytest.fixture
def project(made, monkeypatch, tmp_path):
    monkeypatch.chdir(made)
    return tmp_path


@pytest.fixture
def interrupted(monkeypatch):
    """A function that makes a call, in which somebody presses Ctrl-C after some images."""

    def run(*arguments, survived: int = 1, **more) -> None:
        real, calls = boxes_from_file.look_at, []

        def look(image):
            if len(calls) == survived:
                raise KeyboardInterrupt
            calls.append(image)
            return real(image)

        with monkeypatch.context() as patch:
            patch.setattr(boxes_from_file, "look_at", look)
            with pytest.raises(KeyboardInterrupt):
                refine_file(*arguments, **more)

    return run


@pytest.fixture
def refined(monkeypatch):
    """Numbers of the rows of each image that is refined from now on."""
    real, seen = boxes_from_file.refine_rows, []

    def count(model, item, rows, numbers, *rest):
        seen.append(list(numbers))
        return real(model, item, rows, numbers, *rest)

    monkeypatch.setattr(boxes_from_file, "refine_rows", count)
    return seen


NUMBERS = results()
STRINGS = [dict(row, image_id=f"im {row['image_id'] - 70}") for row in results()]


@pytest.mark.parametrize(
    ("rows", "more"), [(NUMBERS, BY_ANN), (STRINGS, QUIET)], ids=["numbers", "strings"]
)
def test_an_interrupted_call_goes_on(project, interrupted, refined, rows, more):
    boxes, out = write(project / "in.json", rows), project / "out.json"
    refine_file(*REFINE, boxes, project / "whole.json", **more)
    assert refined == [[0, 2], [1]]
    interrupted(*REFINE, boxes, out, **more)
    assert sorted(each.name for each in project.glob("out*")) == ["out.json.unfinished"]
    refined.clear()
    lines = []
    done = refine_file(*REFINE, boxes, out, **more | dict(say=lines.append))
    assert refined == [[1]]
    assert lines == [f"going on from {out}.unfinished"]
    assert out.read_text() == (project / "whole.json").read_text()
    assert done["refined"] == 3
    assert [each.name for each in project.glob("out*")] == ["out.json"]


def other_boxes(project):
    write(project / "in.json", results(score=0.1))


def other_weights(project):
    state = torch.load(project / "mine.pth", weights_only=True)
    state["state_dict"]["energy_head.fc_energy.weight"] += 1
    torch.save(state, project / "mine.pth")


def other_classes(project):
    content = json.loads((project / "boxes.json").read_text())
    content["categories"].reverse()
    write(project / "boxes.json", content)


def other_config(project):
    with (project / "mine_ebm.py").open("a") as file:
        file.write("model.update(clip_boxes=False)\n")


@pytest.mark.parametrize(
    ("change", "more", "what"),
    [
        (other_boxes, {}, "boxes"),
        (other_weights, {}, "weights"),
        (other_classes, {}, "annotations"),
        (other_config, {}, "config"),
        (lambda _: None, dict(steps=1), "steps"),
    ],
    ids=["boxes", "weights", "annotations", "config", "steps"],
)
def test_a_call_with_something_else_is_refused(project, interrupted, change, more, what):
    for name in ("my_detector.py", "mine_ebm.py", "mine.pth", "data/boxes.json"):
        shutil.copy(name, project)
    out = project / "out.json"
    arguments = (project / "mine_ebm.py", project / "mine.pth", "data")
    arguments += (write(project / "in.json", results()), out)
    ann = dict(ann_file=project / "boxes.json")
    interrupted(*arguments, **ann, **QUIET)
    before = {path: path.read_bytes() for path in project.rglob("out*/**/*.json")}
    assert before
    change(project)
    message = rf"out\.json\.unfinished has a refinement with another {what}; give a new --out"
    with pytest.raises(FileExistsError, match=message):
        refine_file(*arguments, **ann, **more, **QUIET)
    assert before == {path: path.read_bytes() for path in project.rglob("out*/**/*.json")}
    assert not out.exists()


def test_an_image_that_has_changed_is_done_again(project, interrupted, refined):
    shutil.copytree("data", project / "images")
    path = str(project / "images" / "im 1.png")
    arguments = (*REFINE[:2], project / "images", write(project / "in.json", results()))
    interrupted(*arguments, project / "out.json", **BY_ANN)
    cv2.imwrite(path, 255 - cv2.imread(path))
    refined.clear()
    refine_file(*arguments, project / "out.json", **BY_ANN)
    assert refined == [[0, 2], [1]]
    refine_file(*arguments, project / "whole.json", **BY_ANN)
    assert (project / "out.json").read_text() == (project / "whole.json").read_text()


def test_an_image_that_was_absent_is_tried_again(project, interrupted, refined):
    shutil.copytree("data", project / "images")
    path = project / "images" / "im 2.png"
    rows = [dict(results()[0], image_id=72), *results()]
    arguments = (*REFINE[:2], project / "images", write(project / "in.json", rows))
    path.rename(project / "kept")
    interrupted(*arguments, project / "out.json", survived=2, **BY_ANN)
    assert refined == [[1, 3]]
    (project / "kept").rename(path)
    refined.clear()
    assert refine_file(*arguments, project / "out.json", **BY_ANN)["refined"] == 4
    assert refined == [[0], [2]]


def test_two_calls_at_once_do_not_mix(project, interrupted):
    boxes, out = write(project / "in.json", results()), project / "out.json"
    interrupted(*REFINE, boxes, out, **BY_ANN)
    with (
        held(project / "out.json.unfinished"),
        pytest.raises(FileExistsError, match="another process works in"),
    ):
        refine_file(*REFINE, boxes, out, **BY_ANN)
    refine_file(*REFINE, boxes, out, **BY_ANN)


def test_a_file_that_somebody_makes_meanwhile_stays_and_so_does_the_work(
    project, monkeypatch, refined
):
    boxes, out = write(project / "in.json", results()), project / "out.json"
    real = boxes_from_file.look_at

    def look(image):
        out.write_text("mine")
        return real(image)

    with monkeypatch.context() as patch:
        patch.setattr(boxes_from_file, "look_at", look)
        with pytest.raises(FileExistsError, match=r"out\.json"):
            refine_file(*REFINE, boxes, out, **BY_ANN)
    assert out.read_text() == "mine"
    out.unlink()
    refined.clear()
    refine_file(*REFINE, boxes, out, **BY_ANN)
    assert not refined


KILLED = """
import os, signal, sys
from ebm_mmdet import commands
from ebm_mmdet.apis import boxes_from_file
from ebm_mmdet.apis.auditing import scoring
scoring.SECONDS_PER_FILE = 0  # else half a minute is lost
real, calls = boxes_from_file.look_at, []

def look(image):
    if calls:
        os.kill(os.getpid(), int(sys.argv[1]))
    calls.append(image)
    return real(image)

boxes_from_file.look_at = look
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell has behind it
sys.exit(commands.main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill-9"])
def test_a_command_that_is_killed_goes_on(project, refined, capsys, how):
    boxes, out = write(project / "in.json", results()), project / "out.json"
    command = ["refine", *REFINE[:2], "--images", "data", "--boxes", str(boxes)]
    command += ["--out", str(out), "--ann", "data/boxes.json", "--device", "cpu"]
    root = Path(__file__).parents[3]
    paths = os.pathsep.join([str(root), str(root / "ops"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(int(how)), *command],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL), done.stderr
    assert ("the same command goes on from there" in done.stdout) == (how == signal.SIGINT)
    assert not out.exists()
    assert commands.main(command) == 0
    assert refined == [[1]]
    printed = capsys.readouterr().out
    assert "going on from" in printed
    assert "3 of 3 boxes refined" in printed
    assert [each.name for each in project.glob("out*")] == ["out.json"]
