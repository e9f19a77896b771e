"""Several detectors in one table: trained once each, resumed, never mixed."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet, which `make test` installs")

from mmdet.utils import register_all_modules
from mmengine.config import Config

from ebm_mmdet.datasets import write_coco
from lab.studies import Row, StudySettings, compare_detectors, read_study
from lab.studies.judged_detections import JUDGE
from lab.studies.study_file import folder_name
from lab.studies.tables import detectors_page

ROOT = Path(__file__).parents[3]
SETTINGS = StudySettings(seeds=(0, 1), rounds=1, boxes_per_iteration=8, resamples=5)
BASE, VOTING = "Faster R-CNN", "KL-Loss, voting"
ENERGY, BOTH = "Faster R-CNN, energy head", "KL-Loss, voting, energy head"
STUDY = ROOT / "configs" / "demo" / "kl_study.yaml"
ROWS = [Row(BASE), Row(VOTING, "KL-Loss"), Row(ENERGY, BASE), Row(BOTH, "KL-Loss")]
SIZES = {"train": 4, "val": 3}
pytestmark = pytest.mark.slow  # trains four detectors and four heads


def small(cfg: Config, root: Path) -> Config:
    """Two iterations of two images, few boxes; four images to train on, three to test on."""
    detector = cfg.model.get("detector", cfg.model)
    for proposals in (detector.train_cfg.rpn_proposal, detector.test_cfg.rpn):
        proposals.update(nms_pre=40, max_per_img=20)
    detector.test_cfg.rcnn.max_per_img = 5
    if detector is not cfg.model:
        cfg.model.energy_head.update(fc_channels=[16], pool_size=3)
        cfg.model.refiner.num_steps = 2
        if "step_size" in cfg.model.refiner:
            cfg.model.refiner.step_size = 0.1  # an untrained f is nearly flat
    cfg.train_cfg.max_iters = 2
    cfg.train_dataloader.batch_size = 2
    cfg.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=-1)
    for dataset in (cfg.train_dataloader.dataset, cfg.val_dataloader.dataset):
        if dataset.type == "ShapesDataset":
            dataset.num_images = 4
        else:
            dataset.data_root = str(root)
    return cfg


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    for seed, (split, number) in enumerate(SIZES.items()):
        write_coco(root, split, number, seed, image_size=(128, 128), extent=(20, 64))
    return root


@pytest.fixture(scope="module")
def cfgs(data: Path) -> dict[str, Config]:
    register_all_modules()
    read = read_study(STUDY, only=[BASE, VOTING, ENERGY, BOTH])
    assert read.rows == ROWS
    return {name: small(cfg, data) for name, cfg in read.cfgs.items()}


@pytest.fixture(scope="module")
def study(cfgs, tmp_path_factory) -> tuple[Path, list[dict], list[str]]:
    out, lines = tmp_path_factory.mktemp("study"), []
    with pytest.MonkeyPatch.context() as patch:
        # Untrained detectors are sure of nothing.
        patch.setitem(JUDGE, "score_thr", 0.0)
        patch.setitem(JUDGE, "iou_thr", 0.1)
        rows = compare_detectors(cfgs, ROWS, out, SETTINGS, lines.append)["rows"]
    return out, rows, lines


def test_every_detector_is_trained_once_per_seed(study) -> None:
    out, rows, lines = study
    assert [row["method"] for row in rows] == [BASE, VOTING, ENERGY, BOTH]
    assert sum("2 iterations of 2 images" in line for line in lines) == 2 * 2
    assert sum("trained energy head" in line for line in lines) == 2 * 2
    seeds = [
        torch.load(out / "faster_r-cnn" / f"seed{s}" / "iter_2.pth", weights_only=True)
        for s in (0, 1)
    ]
    weights = [state["state_dict"]["roi_head.bbox_head.fc_reg.weight"] for state in seeds]
    assert not torch.equal(*weights)


def test_an_energy_row_refines_the_detector_of_its_seed(study) -> None:
    """Scores are the detector's, boxes are not (all of them), and the head's time is added."""
    out, _, _ = study
    for seed in (0, 1):
        before, after = (
            json.loads((out / folder_name(row.name) / f"test{seed}.json").read_text())
            for row in (ROWS[0], ROWS[2])
        )
        scores = [[found["score"] for found in run["detections"]] for run in (before, after)]
        np.testing.assert_allclose(*scores, rtol=1e-5)
        boxes = [[found["bbox"] for found in run["detections"]] for run in (before, after)]
        assert not np.allclose(*boxes, atol=1e-3)
        assert after["training_s"] > before["training_s"] > 0
        assert after["params"] > before["params"]
        assert not before["uncertainty"]


def test_uncertainty_is_judged_where_there_is_one(study) -> None:
    _, rows, _ = study
    known = {row["method"]: row["nll"] is not None for row in rows}
    assert known == {BASE: False, VOTING: True, ENERGY: False, BOTH: True}
    assert all(0 <= row["ece"] <= 1 for row in rows if row["ece"] is not None)
    assert rows[0]["change_AP"] is None
    assert all(row["error_AP"] >= 0 and row["ms_per_image"] > 0 for row in rows[1:])


def test_second_call_uses_what_is_there(cfgs, study) -> None:
    out, rows, _ = study
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*.pth")}
    lines: list[str] = []
    again = compare_detectors(cfgs, ROWS, out, SETTINGS, lines.append)["rows"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.pth")} == files
    assert not any("iterations" in line or "testing" in line for line in lines)
    assert json.dumps(again) == json.dumps(rows)  # NaN is equal to itself here


def test_an_interrupted_training_goes_on(cfgs, study, tmp_path) -> None:
    rows, settings = ROWS[:1], StudySettings(seeds=(0,), resamples=2)
    compare_detectors(cfgs, rows, tmp_path, settings, lambda line: None)
    folder = tmp_path / "faster_r-cnn" / "seed0"
    (folder / "iter_2.pth").unlink()
    (folder.parent / "test0.json").unlink()
    lines: list[str] = []
    compare_detectors(cfgs, rows, tmp_path, settings, lines.append)
    assert any("going on from" in line and "iter_1.pth" in line for line in lines)
    state = torch.load(folder / "iter_2.pth", weights_only=True)
    times, _ = state["message_hub"]["log_scalars"]["train/time"].data
    assert len(times) == 2


def test_what_cannot_be_compared_is_refused(cfgs, study, tmp_path) -> None:
    out, _, _ = study
    other = copy.deepcopy(cfgs)
    other[BASE].optim_wrapper.optimizer.lr = 1.0
    with pytest.raises(FileExistsError, match="another config"):
        compare_detectors(other, ROWS, out, SETTINGS)
    with pytest.raises(FileExistsError, match="another rounds"):
        compare_detectors(cfgs, ROWS, out, StudySettings(rounds=2, boxes_per_iteration=8))
    alone = [Row(ENERGY)]
    with pytest.raises(ValueError, match="trained_as"):
        compare_detectors(cfgs, alone, tmp_path, SETTINGS)
    other[BASE].val_dataloader.dataset.ann_file = "other.json"
    with pytest.raises(ValueError, match="'KL-Loss, voting' has other validation images"):
        compare_detectors(other, ROWS, tmp_path / "new", SETTINGS)
    other = copy.deepcopy(cfgs)
    other[BASE].train_cfg = dict(max_epochs=1)
    with pytest.raises(ValueError, match="max_iters"):
        compare_detectors(other, ROWS[:1], tmp_path / "new", SETTINGS)


def test_the_table_has_every_row(study) -> None:
    out, _, _ = study
    text = detectors_page(json.loads((out / "results.json").read_text()))
    assert "3 validation images" in text
    assert text.count("\n| ") == 1 + 1 + len(ROWS)
    assert "| Faster R-CNN |" in text
