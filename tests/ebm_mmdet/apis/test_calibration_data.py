"""Annotations that a calibration must not be made from: other labels, other sizes of images."""

from __future__ import annotations

import json

import pytest

from ebm_mmdet.apis import calibrate
from tests.ebm_mmdet.apis.user_project import ONE_STAGE, make_project


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = make_project(tmp_path / "my work", ONE_STAGE)
    monkeypatch.chdir(folder)
    return folder


def calibration_file(change=lambda content: None):
    """The project's annotations after a change."""
    with open("data/boxes.json", encoding="utf-8") as file:
        content = json.load(file)
    change(content)
    with open("val.json", "w", encoding="utf-8") as file:
        json.dump(content, file)


def calibrated():
    """Lines of a call that ends with too few detections, which is said after all that is read."""
    lines = []
    with pytest.raises(ValueError, match="takes 9 at least"):
        calibrate(
            "my_detector.py", "epoch_12.pth", "val.json", "data", score_thr=0.99, say=lines.append
        )
    return lines


def other_order(content):
    content["categories"].reverse()


def test_another_order_than_that_of_the_training_file(project):
    calibration_file()
    assert calibrated() == []
    calibration_file(other_order)
    message = r"label 0 is 'ape' in data/boxes\.json .*, and 'cat' in .*val\.json \(cat, bat, ape\)"
    with pytest.raises(ValueError, match=message):
        calibrate("my_detector.py", "epoch_12.pth", "val.json", "data")
    assert not list(project.glob("*.unfinished"))
    # Where both have it, the detector may have learned it: a line.
    with open("data/boxes.json", encoding="utf-8") as file:
        content = json.load(file)
    other_order(content)
    (project / "data" / "boxes.json").write_text(json.dumps(content))
    calibration_file()
    (line,) = calibrated()
    assert "label 0 is 'cat' in data/boxes.json" in line
    # Nor is anything known if the training file is not on this machine.
    (project / "data" / "boxes.json").unlink()
    (line,) = calibrated()
    assert "val.json" in line


def test_another_size_of_an_image_is_said_before_the_work(project):
    calibration_file(lambda content: content["images"][0].update(width=180))
    message = r"calibration data cannot be used: .*im 1\.png, of .*val\.json, has 90 x 66 pixels"
    with pytest.raises(ValueError, match=message):
        calibrate("my_detector.py", "epoch_12.pth", "val.json", "data")
    assert not list(project.glob("*.unfinished"))
