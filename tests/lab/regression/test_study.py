"""The study of image regression, as a miniature: runs, measurements, tables, resumption."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ebm_mmdet.files import read_json
from lab.regression import report, study
from lab.regression.methods import GENERATED, METHODS, TASKS, run_config
from lab.regression.records import add_records, read_records
from lab.regression.runs import Run, execute, trained
from lab.studies.study_file import StudyFileError

TINY = {
    "train_cfg.max_epochs": 1,
    "train_cfg.val_interval": 1,
    "train_dataloader.batch_size": 8,
    "train_dataloader.dataset.num_images": 16,
    "test_dataloader.dataset.num_images": 12,
    "model.backbone.base_channels": 4,
    "model.backbone.stem_channels": 4,
    "model.head.in_channels": 16,
    "model.test_cfg.num_samples": 16,
}


def tiny(run: Run, out) -> dict:
    return execute(run, out, lambda line: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("a study")
    for method in ("direct", "ebm_mdn"):
        tiny(Run("cells", method, 0, TINY), out)
    return out


def test_a_model_is_measured_with_every_kind_of_point(folder):
    result = read_json(folder / "runs/cells/ebm_mdn/seed0/result.json")
    values = result["values"]
    assert set(values) == {"mean", "median", "mode", "more"}
    density = [
        {key: value for key, value in values[point].items() if key in ("nll", "crps", "ess")}
        for point in ("mean", "median", "mode")
    ]
    assert density[0] == density[1] == density[2]
    assert len({values[point]["mae"] for point in ("mean", "median", "mode")}) == 3
    assert values["more"]["ess"] > values["mean"]["ess"]
    assert values["mean"]["labelled"] == 12
    assert result["parameters"] > 0
    assert result["threads"] >= 1


def test_a_direct_regressor_has_one_point_and_no_density(folder):
    values = read_json(folder / "runs/cells/direct/seed0/result.json")["values"]
    assert set(values) == {"mean"}
    assert "nll" not in values["mean"]


def test_a_finished_run_is_not_repeated(folder, monkeypatch):
    monkeypatch.setattr("lab.regression.runs.train_stage", None)  # would fail
    again = tiny(Run("cells", "direct", 0, TINY), folder)
    assert again == read_json(folder / "runs/cells/direct/seed0/result.json")


def test_other_settings_do_not_mix_with_a_run(folder):
    changed = {**TINY, "train_dataloader.batch_size": 4, "optim_wrapper.optimizer.lr": 0.5}
    with pytest.raises(FileExistsError, match="another recipe"):
        study.run_all([Run("cells", "direct", 0, changed)], folder, 1)


def test_a_finished_model_can_be_loaded(folder):
    model, cfg = trained(Run("cells", "ebm_mdn", 0, TINY), folder)
    assert model.head.codec.fitted
    assert cfg.model.head.type == "EBMRegressionHead"


def test_the_report_of_a_folder(folder, tmp_path):
    lines, page = [], tmp_path / "page.md"
    results = study.run_study(
        ["cells"], ["direct"], [0], folder, page=page, report_only=True, say=lines.append
    )
    assert {r["method"] for r in results} == {"direct", "ebm_mdn"}
    assert "<!-- regression-cells:begin -->" in page.read_text()
    assert "energy, learned proposal: mode" in page.read_text()
    rows = (folder / "results.csv").read_text().splitlines()
    assert len(rows) == 1 + 1 + 4
    with pytest.raises(StudyFileError, match="no finished run"):
        study.run_study(["cells"], ["direct"], [0], tmp_path, report_only=True)


def test_a_study_goes_on_from_records_on_another_machine(folder, tmp_path, monkeypatch):
    records, out = tmp_path / "runs.jsonl", tmp_path / "new"
    add_records(records, [], folder)
    assert len(read_records(records)) == 2
    monkeypatch.setattr("lab.regression.runs.train_stage", None)  # nothing is trained again
    ask = dict(changes=TINY, jobs=1, records=records, say=lambda line: None)
    results = study.run_study(["cells"], ["direct", "ebm_mdn"], [0], out, **ask)
    assert [r["method"] for r in results] == ["direct", "ebm_mdn"]
    assert (
        results[0]["values"] == read_json(folder / "runs/cells/direct/seed0/result.json")["values"]
    )
    assert len(read_records(records)) == 2
    # Values of another recipe do not count, and stay in the file.
    other = {**ask, "changes": {**TINY, "train_cfg.max_epochs": 2}}
    with pytest.raises(StudyFileError, match="no finished run"):
        study.run_study(["cells"], ["direct"], [0], out, report_only=True, **other)
    records.write_text("{}\n")
    with pytest.raises(StudyFileError, match="line 1"):
        study.run_study(["cells"], ["direct"], [0], out, **ask)


@pytest.mark.parametrize("names", [(["cell"], ["mdn"]), (["cells"], ["mnd"])])
def test_unknown_names_are_listed(names):
    with pytest.raises(StudyFileError, match="there are"):
        study.plan(*names, [0])


def test_every_run_has_a_config():
    for path in TASKS.values():
        for method in METHODS.values():
            assert path.with_name(f"{path.name}_{method.config}.py").is_file()
    cfg = run_config("rings", "mdn8", 3)
    assert (cfg.model.head.num_components, cfg.randomness.seed) == (8, 3)
    warm = run_config("rings", "mdn_teacher_warm", 0).custom_hooks
    assert [hook.epochs for hook in warm if hook.type == "ProposalWarmUpHook"] == [2]


# --- tables, from made-up results ---------------------------------------------------------------


def result(task, method, seed, training_s=100.0, **values) -> dict:
    points = METHODS[method].points
    fixed = dict(ms_per_step=1.0, prediction_s=1.0, parameters=1, threads=1, training_s=training_s)
    return dict(
        task=task, method=method, seed=seed, values={p: dict(values) for p in points}, **fixed
    )


def test_cells_are_means_over_seeds_and_failures_are_counted():
    results = [result("cells", "mdn", seed, nll=v) for seed, v in enumerate((1.0, 2.0, None))]
    header, lines = report.task_table(results, "cells")
    assert header == ["", "seeds", "NLL", "training, CPU s"]
    assert lines == [["mixture, K = 4", "3", "1.50 ± 0.71 (1 failed)", "100"]]


def test_one_model_has_a_row_for_every_point():
    results = [result("road", "ebm_mdn", 0, mae=2.0, nll=1.0, off_branch_fork=0.25)]
    header, lines = report.task_table(results, "road")
    assert header == ["", "seeds", "MAE", "off every branch, fork, %", "NLL", "training, CPU s"]
    assert lines[0] == ["energy, learned proposal: mean", "1", "2.00", "25.0", "1.00", "100"]
    assert lines[2] == ["energy, learned proposal: mode", "", "2.00", "25.0", "", ""]


def test_the_oracle_is_the_last_line():
    found = result("head", "mdn", 0, nll=6.0, nll_oracle=5.7, nll_ambiguous=7.0)
    found["values"]["mean"] = {**found["values"]["median"], "nll_oracle_ambiguous": 6.2}
    header, lines = report.task_table([found], "head")
    assert header == ["", "seeds", "NLL", "NLL, ambiguous", "training, CPU s"]
    assert lines[-1] == ["the true density", "", "5.70", "6.20", ""]


def test_a_paired_difference_and_its_interval():
    results = [
        result("rings", method, seed, nll=base + shift)
        for method, shift in (("mdn", 0.0), ("mdn_teacher", 0.1))
        for seed, base in enumerate((1.0, 2.0, 3.0))
    ]
    for seed, change in enumerate((-0.05, 0.0, 0.05)):
        results[3 + seed]["values"]["median"]["nll"] += change
    found = report.paired_difference(results, "rings", "mdn_teacher", "mdn", "nll")
    assert found["mean"] == pytest.approx(0.1)
    assert found["seeds"] == 3
    half = 4.302653 * 0.05 / math.sqrt(3)  # Student's t with two degrees of freedom
    assert found["high"] - found["mean"] == pytest.approx(half, rel=1e-5)
    _, lines = report.teacher_table(results)
    assert lines[0][-1] == "none shown"
    assert report.paired_difference(results[:4], "rings", "mdn_teacher", "mdn", "nll") is None


def test_no_claim_is_made_of_what_holds_zero():
    differences = np.array([-0.1, -0.12, -0.11])
    results = [result("cells", "mdn", seed, nll=2.0) for seed in range(3)]
    results += [
        result("cells", "mdn_teacher", seed, nll=2.0 + d) for seed, d in enumerate(differences)
    ]
    _, lines = report.teacher_table(results)
    assert lines[0][-1] == "better"


def test_results_are_plain_json(folder):
    text = (folder / "runs/cells/ebm_mdn/seed0/result.json").read_text()
    assert "NaN" not in text
    json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert set(GENERATED) < set(TASKS)


def test_a_run_ends_with_a_study_that_was_killed(tmp_path):
    """Otherwise two processes would write into its folder once the study is called again."""
    child = (
        "import os, pathlib, time\n"
        "from lab.processes import end_with_parent\n"
        "end_with_parent(0.05)\n"
        f"pathlib.Path({str(tmp_path / 'new')!r}).write_text(str(os.getpid()))\n"
        f"os.rename({str(tmp_path / 'new')!r}, {str(tmp_path / 'pid')!r})\n"
        "time.sleep(120)\n"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", parent], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    _wait_for((tmp_path / "pid").exists)
    pid = int((tmp_path / "pid").read_text())
    assert _is_running(pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _wait_for(lambda: not _is_running(pid))


def _wait_for(condition, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
