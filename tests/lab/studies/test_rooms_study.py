"""The study of ROCK on generated rooms, in miniature: no annotation file, auxiliary metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="needs mmdet, which `make test` installs")

from mmdet.utils import register_all_modules

from lab.studies import StudySettings, compare_detectors, read_study
from lab.studies.auxiliary import annotations_of, mean_and_spread
from lab.studies.tables import detectors_page

ROOT = Path(__file__).parents[3]
STUDY = ROOT / "configs" / "rock" / "rooms_study.yaml"
TASKS = {"SSD": (), "SSD, depth": ("depth",)}
SMALL = {
    "train_cfg.max_iters": 2,
    "train_dataloader.batch_size": 2,
    "train_dataloader.dataset.num_images": 4,
    "val_dataloader.dataset.num_images": 3,
    "param_scheduler.1.end": 200,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    register_all_modules()
    read = read_study(STUDY, only=list(TASKS), cfg_options=SMALL)
    return read, tmp_path_factory.mktemp("rooms study")


def test_all_six_rows_of_the_study():
    register_all_modules()
    read = read_study(STUDY)
    assert [row.name for row in read.rows] == [
        "SSD",
        "SSD, scene",
        "SSD, depth",
        "SSD, normals",
        "flat",
        "ROCK",
    ]
    schedules = {str((c.train_cfg, c.optim_wrapper, c.param_scheduler)) for c in read.cfgs.values()}
    data = {str(cfg.train_dataloader) for cfg in read.cfgs.values()}
    assert len(schedules) == len(data) == 1
    assert read.cfgs["flat"].model.block.fusion is False


def test_rows_are_trained_tested_and_tabulated(study):
    read, out = study
    settings, lines = StudySettings(seeds=(0, 1), resamples=4), []
    # Seed 0 in processes of its own, which print by themselves; then the other one in this process.
    one = StudySettings(seeds=(0,), resamples=4)
    compare_detectors(read.cfgs, read.rows, out, one, lines.append, jobs=2)
    assert not any("2 iterations of 2 images" in line for line in lines)
    report = compare_detectors(read.cfgs, read.rows, out, settings, lines.append)
    assert sum("2 iterations of 2 images" in line for line in lines) == len(TASKS)
    annotations = json.loads((out / "annotations.json").read_text())
    assert len(annotations["images"]) == report["images"] == 3
    assert [row["method"] for row in report["rows"]] == list(TASKS)
    for row in report["rows"]:
        tasks = {name.split("/")[0] for name in row["auxiliary"]}
        assert tasks == set(TASKS[row["method"]])
        assert row["training_s"] > 0
        assert row["ms_per_image"] > 0
    assert report["rows"][1]["params"] > report["rows"][0]["params"]
    page = detectors_page(report)
    assert "depth/abs_rel" in page
    assert page.count("| SSD, depth |") == 2
    assert (out / "results.csv").read_text().startswith("method,")
    # All is there: nothing is trained or tested again.
    lines.clear()
    again = compare_detectors(read.cfgs, read.rows, out, settings, lines.append)
    assert json.dumps(again) == json.dumps(report)  # as text, because NaN is not equal to itself
    assert not any("testing" in line for line in lines)


def test_data_without_annotations_is_refused(tmp_path):
    class Bare:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return dict(data_samples=dict())

    with pytest.raises(ValueError, match="no ann_file, and its items have no instances"):
        annotations_of(Bare(), tmp_path)


def test_means_over_seeds_leave_out_what_a_run_has_not():
    runs = [{"a": 1.0, "b": 5.0}, {"a": 3.0}]
    assert mean_and_spread(runs) == {"a": (2.0, 1.4142), "b": (5.0, None)}
