"""The command `calibrate`, and what later calls make of its file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from pycocotools.coco import COCO

from ebm_mmdet.apis import EBMInferencer, add_energy_head, calibrate, load_detector
from ebm_mmdet.commands import main
from ebm_mmdet.engine.stored_intervals import StoredIntervalsHook, model_digest
from tests.ebm_mmdet.apis.user_project import ONE_STAGE, make_project


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A user's folder with a refined detector that is not trained."""
    folder = make_project(tmp_path_factory.mktemp("user") / "my work", ONE_STAGE)
    cfg = add_energy_head(Config.fromfile(folder / "my_detector.py"), folder / "epoch_12.pth")
    cfg.model.refiner = dict(type="ImportanceMeanRefiner", prior=dict(std=0.1), num_samples=16)
    cfg.custom_imports = dict(imports=["ebm_mmdet"], allow_failed_imports=False)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = str(folder / "data")
    cfg.dump(folder / "ebm.py")
    init_default_scope("mmdet")
    model = load_detector(cfg, None)
    meta = dict(dataset_meta=dict(classes=("ape", "bat", "cat")))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / "best.pth")
    truth = json.loads((folder / "data" / "boxes.json").read_text())
    for image in truth["images"]:  # a large object of every class in each
        truth["annotations"] += [
            dict(
                id=100 * image["id"] + k,
                image_id=image["id"],
                category_id=k,
                bbox=[2, 2, 80, 50],
                area=4000,
                iscrowd=0,
            )
            for k in (10, 20, 30)
        ]
    (folder / "val set.json").write_text(json.dumps(truth))
    return folder


def test_the_commands(project, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(project)
    call = ["calibrate", "ebm.py", "best.pth", "--device", "cpu", "--images", "data"]
    call += ["--level", "0.5", "--score-thr", "0", "--iou-thr", "0.01"]
    assert main([*call, "--ann", "data/boxes.json"]) == 1
    assert "is what the config trains on" in capsys.readouterr().err
    # Nor is it taken without being named, where the config tests on it.
    assert main([each for each in call if each not in ("--images", "data")]) == 1
    assert "is what the config trains on" in capsys.readouterr().err
    content = json.loads((project / "val set.json").read_text())
    images_only = tmp_path / "images only.json"
    images_only.write_text(json.dumps({**content, "annotations": []}))
    assert main([*call, "--ann", str(images_only)]) == 1
    assert re.search(r"images only\.json has \d images and no annotated", capsys.readouterr().err)
    assert main([*call, "--ann", "val set.json"]) == 0
    assert "bounds of all, in units of 'std'" in capsys.readouterr().out
    assert main([*call, "--ann", "val set.json"]) == 1
    assert "best_intervals.pth exists" in capsys.readouterr().err
    predict = ["predict", "ebm.py", "best_intervals.pth", "data", "--device", "cpu"]
    out = tmp_path / "out put"
    assert main([*predict, "--no-pictures", "--out-dir", str(out)]) == 0
    content = COCO(out / "coco.json")
    assert len(content.dataset["annotations"]) == 15
    for each in content.dataset["annotations"]:
        x, y, w, h = each["bbox"]
        for value, (low, high) in zip((x, y, x + w, y + h), each["side_interval"]):
            assert low - 2e-3 <= value <= high + 2e-3
            assert high > low
    assert main([*predict, "--no-pictures", "--no-refine", "--out-dir", str(out / "b")]) == 0
    plain = json.loads((out / "b" / "coco.json").read_text())
    assert all("side_interval" not in each for each in plain["annotations"])


def test_other_settings_of_the_model_are_said(project):
    weights = project / "best_intervals.pth"
    if not weights.exists():
        calibrate(
            project / "ebm.py",
            project / "best.pth",
            project / "val set.json",
            project / "data",
            level=0.5,
            score_thr=0.0,
            iou_thr=0.01,
        )
    cfg = Config.fromfile(project / "ebm.py")
    digest = model_digest(cfg)
    load_detector(cfg, weights)
    EBMInferencer(cfg, weights, "cpu", show_progress=False)
    cfg.model.refiner.num_samples = 32
    with pytest.warns(UserWarning, match="calibrated with other settings"):
        load_detector(cfg, weights)
    with pytest.warns(UserWarning, match="calibrated with other settings"):
        EBMInferencer(cfg, weights, "cpu", show_progress=False)
    # tools/test.py, also with test-time augmentation, where the model is in a wrapper.
    model = load_detector(cfg, None)
    runner = SimpleNamespace(model=torch.nn.Module())
    runner.model.module = model
    hook = StoredIntervalsHook(digest)
    hook.after_load_checkpoint(runner, torch.load(weights, weights_only=True))
    assert model.side_intervals.level == 0.5
