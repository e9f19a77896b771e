"""The whole study on a few photographs: it measures the product, resumes, and refuses to mix."""

from __future__ import annotations

import copy
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet, which `make test` installs")

from mmdet.registry import DATASETS, TASK_UTILS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from pycocotools.coco import COCO

import ebm_mmdet  # noqa: F401
from ebm_mmdet.apis import load_frozen_detector
from lab.studies import (
    METRICS,
    MatchedDetections,
    StudyFileError,
    StudySettings,
    coco_results,
    compare_recipes,
    run_study,
)
from lab.studies.tables import refinement_page
from tests.lab.real_data import needs, on_real_data

pytestmark = [needs("coco_open"), pytest.mark.slow]
CONFIG = Path(__file__).parents[3] / "configs" / "coco_open" / "yolox_nano_ebm.py"
SETTINGS = StudySettings(seeds=(0, 1), rounds=1, boxes_per_iteration=8, resamples=5)


@pytest.fixture(scope="module")
def cfg(tmp_path_factory) -> Config:
    """The config of the photographs, with three training and three validation images."""
    register_all_modules()
    cfg, folder = on_real_data(CONFIG), tmp_path_factory.mktemp("annotations")
    for split, dataset in (
        ("train", cfg.train_dataloader.dataset),
        ("val", cfg.val_dataloader.dataset),
        ("train", cfg.fit_dataset),
    ):
        content = json.loads(Path(dataset.data_root, dataset.ann_file).read_text())
        content["images"] = content["images"][:3]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        path = folder / f"{split}.json"
        path.write_text(json.dumps(content))
        dataset.ann_file = str(path)
    cfg.train_cfg.max_iters = 4
    # A tenth of the detections, and heads that are a tenth as wide.
    cfg.model.detector.test_cfg.score_thr = 0.2
    cfg.model.energy_head.update(fc_channels=[16], pool_size=3)
    cfg.model.refiner.num_steps = 3
    return cfg


@pytest.fixture(scope="module")
def study(cfg: Config, tmp_path_factory) -> tuple[Path, list[dict]]:
    out = tmp_path_factory.mktemp("study")
    return out, run_study(cfg, out, SETTINGS, say=lambda line: None)["rows"]


def product_metrics(cfg: Config, head: dict | None, refiner) -> np.ndarray:
    """The metrics of ``EBMDetector.test_step``, what tools/test.py runs."""
    detector = load_frozen_detector(cfg)
    if head is not None:
        detector.energy_head.load_state_dict(head)
    detector.refiner = refiner
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    records = []
    for index in range(len(dataset)):
        (sample,) = detector.test_step(pseudo_collate([dataset[index]]))
        found = sample.pred_instances
        records += coco_results(
            sample.img_id, found.bboxes, found.scores, found.labels, dataset.cat_ids
        )
    return 100 * MatchedDetections(COCO(dataset.ann_file), records).metrics()


def test_rows_are_what_the_product_does(cfg: Config, study) -> None:
    out, rows = study
    assert [row["runs"] for row in rows] == [1, 1, 1, 1, *[2] * 15, *[1] * 4]
    climb = next(row for row in rows if row["method"].startswith("energy, T = 3"))
    base = product_metrics(cfg, None, None)
    np.testing.assert_allclose([rows[0][name] for name in METRICS], base, atol=0.006)

    refiner = TASK_UTILS.build(cfg.model.refiner)
    heads = [torch.load(out / "heads" / f"energy_{seed}.pth", weights_only=True) for seed in (0, 1)]
    refined = np.mean([product_metrics(cfg, h["state_dict"], refiner) for h in heads], axis=0)
    np.testing.assert_allclose([climb[name] for name in METRICS], refined, atol=0.006)
    np.testing.assert_allclose(
        [climb[f"change_{name}"] for name in METRICS], refined - base, atol=0.006
    )


def test_rows_of_energy_are_compared_with_the_best_l1_row(study) -> None:
    _, rows = study
    l1 = [row for row in rows if "L1 head" in row["method"]]
    assert len(l1) == 6
    compared = [row for row in rows if "over_l1_AP90" in row]
    assert len(compared) == 10
    assert all("energy" in row["method"] for row in compared)
    for row in compared:
        for name in METRICS:
            # Before rows with mirror images, those of L1 heads without them.
            best = max(each[name] for each in l1 if rows.index(each) < rows.index(row))
            assert row[f"over_l1_{name}"] == pytest.approx(row[name] - best, abs=0.011)
    page = refinement_page(json.loads((study[0] / "results.json").read_text()))
    assert "| over L1, AP90 |" in page


def test_second_call_uses_what_is_there(cfg: Config, study) -> None:
    out, rows = study
    files = sorted((out / "heads").iterdir())
    before = [path.stat().st_mtime_ns for path in files]
    lines: list[str] = []
    again = run_study(cfg, out, SETTINGS, say=lines.append)["rows"]
    assert [path.stat().st_mtime_ns for path in files] == before
    assert not any("trained" in line or "caching" in line for line in lines)
    drop = "ms_per_image"
    assert [{**row, drop: 0} for row in again] == [{**row, drop: 0} for row in rows]


def _names(rows: list[dict]) -> list[str]:
    return [row["method"] for row in rows]


def test_some_rows_of_a_study(cfg: Config, study) -> None:
    """They equal those of the whole study, and nothing is refined again."""
    out, rows = study
    files = {path: path.stat().st_mtime_ns for path in (out / "rows").iterdir()}
    some = replace(SETTINGS, methods=("L1 head, full", "T = 3"))
    found = run_study(cfg, out, some, say=lambda line: None)["rows"]
    names = ["detector, clipped", "L1 head, full step"]
    assert _names(found[:2]) == names
    assert all("T = 3" in name or "L1 head, full" in name for name in _names(found[2:]))
    assert len(found) == 7  # also their means over mirror images and heads
    whole = {row["method"]: row for row in rows}
    assert [row["AP"] for row in found] == [whole[row["method"]]["AP"] for row in found]
    assert files == {path: path.stat().st_mtime_ns for path in (out / "rows").iterdir()}
    with pytest.raises(StudyFileError, match="'L2' is in no row's name; the rows are: detector,"):
        run_study(cfg, out, replace(SETTINGS, methods=("L2",)), say=lambda line: None)


def test_other_settings_are_refused(cfg: Config, study) -> None:
    out, _ = study
    with pytest.raises(FileExistsError, match="another rounds; give a new --out"):
        run_study(cfg, out, StudySettings(rounds=2, boxes_per_iteration=8))


def test_recipes_share_detections_and_views(cfg: Config, tmp_path) -> None:
    other = copy.deepcopy(cfg)
    other.model.energy_head.objective = dict(
        type="DSMObjective", sigma=0.075, num_samples=2, scale_by_sigma=True
    )
    settings, lines = StudySettings(seeds=(0,), rounds=1, boxes_per_iteration=8, resamples=2), []
    rows = compare_recipes({"nce": cfg, "dsm": other}, tmp_path, settings, lines.append)["rows"]
    assert [row["recipe"] for row in rows] == ["", *["nce"] * 3, *["dsm"] * 3]
    assert rows[1]["cost"] == 1 != rows[4]["cost"]
    assert sum("caching" in line for line in lines) == 1
    assert rows[4]["last_loss"] != rows[1]["last_loss"]
    other.load_from = "another.pth"
    with pytest.raises(ValueError, match="recipe 'dsm' has another load_from"):
        compare_recipes({"nce": cfg, "dsm": other}, tmp_path / "other", settings)


def test_the_tool_prints_a_prior_that_a_refiner_accepts(cfg: Config, capsys) -> None:
    path = CONFIG.parents[2] / "tools" / "analysis_tools" / "fit_residual_prior.py"
    spec = importlib.util.spec_from_file_location("fit_residual_prior", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    options = [
        f"fit_dataset.data_root={cfg.fit_dataset.data_root}",
        f"fit_dataset.ann_file={cfg.fit_dataset.ann_file}",
        f"load_from={cfg.load_from}",
    ]
    lines = tool.main([str(CONFIG), "--k", "0.25", "--cfg-options", *options])
    printed = capsys.readouterr().out
    refiners = []
    for line in lines:
        assert line in printed
        settings = eval(f"dict({line})", {"dict": dict})
        refiners.append(TASK_UTILS.build(dict(type="GradientAscentRefiner", **settings)))
    plain, centred = (refiner.prior for refiner in refiners)
    assert plain.scale == centred.scale == 0.5
    assert plain.bias == 0.0 != max(map(abs, centred.bias))
    # Matches overlap by half or more, so no residual, and no spread, exceeds log 2.
    assert all(0 < std < np.log(2) for std in (*plain.std, *centred.std))
