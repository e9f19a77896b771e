"""What mmengine raises for a wrong config becomes one sentence."""

from __future__ import annotations

import pytest

from ebm_mmdet import commands
from ebm_mmdet.apis.config_faults import building
from tests.ebm_mmdet.apis.user_project import ONE_STAGE, make_project

DATASET = "train_dataloader = dict(dataset=dict({}))"
FAULTS = {
    DATASET.format("type='MyOwnDataset'"): "MyOwnDataset is not in the mmdet::dataset registry",
    DATASET.format("no_such_argument=1"): "unexpected keyword argument 'no_such_argument'",
    "val_dataloader = dict(dataset=dict(pipeline=[dict(type='NoStep')]))": "NoStep is not in",
    "model = dict(backbone=dict(depth=19))": "KeyError: invalid depth 19",
    "model = dict(type='NoDetector')": "NoDetector is not in the mmdet::model registry",
    "model = dict(neck=dict(no_such=1))": "unexpected keyword argument 'no_such'",
    "a = (": "'(' was never closed",
}


def test_a_wrong_config_is_one_line_and_no_folder_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(make_project(tmp_path / "my work", ONE_STAGE))
    for text, message in FAULTS.items():
        with open("changed.py", "w", encoding="utf-8") as file:
            file.write(f"_base_ = './my_detector.py'\n{text}\n")
        assert commands.main(["fit", "changed.py", "epoch_12.pth", "--device", "cpu"]) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("python -m ebm_mmdet fit: ")
        assert message in error
        assert not (tmp_path / "my work" / "changed_fit").exists()


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), building("model"):
        1 / 0  # noqa: B018


@pytest.mark.parametrize("command", ["predict", "inspect", "refine", "audit", "calibrate", "fit"])
def test_a_config_without_a_model_is_named(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nothing.py").write_text("a = 1")
    (tmp_path / "x.pth").write_bytes(b"")
    (tmp_path / "boxes.json").write_text('{"images": [], "annotations": [], "categories": []}')
    arguments = {
        "predict": ["x.pth", "images", "--out-dir", "out"],
        "refine": ["x.pth", "--images", ".", "--boxes", "boxes.json", "--out", "new.json"],
        "audit": ["x.pth", "--ann", "boxes.json", "--out", "out", "--images", "."],
        "calibrate": ["x.pth"],
        "fit": ["x.pth"],
    }.get(command, [])
    assert commands.main([command, "nothing.py", *arguments]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"python -m ebm_mmdet {command}: ")
    assert "nothing.py" in error
