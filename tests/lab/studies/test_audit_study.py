"""The audit study, from annotations with planted errors to its table."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("mmdet", reason="needs mmdet, which `make test` installs")

from ebm_mmdet.datasets import write_coco
from lab.studies.audit_study import RIVALS, run_audit_study
from lab.studies.audit_table import audit_page, measure_costs
from lab.studies.planted_errors import ranking
from tests.ebm_mmdet.apis.user_project import ONE_STAGE, make_project

MODES = ("unseen", "folds", "in-sample")


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """Config, checkpoint, exact annotations to learn from and to spoil, and their images."""
    monkeypatch.chdir(make_project(tmp_path / "my work", ONE_STAGE))
    folder = tmp_path / "my work"
    val = write_coco(folder / "shapes", "val", 5, 3, image_size=(96, 96), extent=(20, 40))
    content = json.loads(val.read_text())
    for category, name in zip(content["categories"], ("ape", "bat", "cat")):
        category["name"] = name
    val.write_text(json.dumps(content))
    return folder / "my_detector.py", folder / "epoch_12.pth", val, val


def options(tmp_path, **changes) -> dict:
    usual = dict(kinds=("side",), share=0.4, iterations=2, say=lambda line: None)
    return dict(images=tmp_path / "my work/shapes/images", seeds=(0, 1), **usual) | changes


def test_a_study_has_a_row_for_each_rival_and_goes_on(shapes, tmp_path):
    usual = options(tmp_path, modes=("unseen",))
    report = run_audit_study(*shapes, tmp_path / "out", **usual)
    page = audit_page(report)
    for name in ("audit, unseen", "f, unseen", *RIVALS, "detector", "random"):
        assert f"| {name} |" in page
        values = np.array([run["ranking"][name]["side"] for run in report["runs"]])
        assert ((values >= 0) & (values <= 1)).all()
    assert "±" in page
    assert "against" not in page  # there is one mode
    assert len(set(json.dumps(run["ranking"]) for run in report["runs"])) == 2
    assert report["settings"]["rivals"] == list(RIVALS)
    again = run_audit_study(*shapes, tmp_path / "out", **usual)
    assert json.dumps(again) == json.dumps(report)  # NaN is not equal to itself
    with pytest.raises(FileExistsError, match="a study with other settings"):
        run_audit_study(*shapes, tmp_path / "out", **usual | dict(iterations=3))
    alone = run_audit_study(*shapes, tmp_path / "alone", rivals=False, **usual)
    names = alone["runs"][0]["ranking"].keys()
    assert "audit, unseen" in names
    assert not names & set(RIVALS)


def test_what_in_sample_costs_is_one_table_of_the_evidence_and_its_parts(shapes, tmp_path):
    usual = options(tmp_path, seeds=(0,), folds=2, rivals=False)
    report = run_audit_study(*shapes, tmp_path / "out", modes=MODES, **usual)
    table = audit_page(report).split("\n\n")[-1]
    assert (
        "| unseen | folds | folds against unseen | in-sample | in-sample against unseen |" in table
    )
    lines = [line.split(" | ")[0] for line in table.split("\n")[2:]]
    assert lines == ["| evidence, side", "| f, side", "| Gaussian, side"]
    names = {f"{part}, {mode}" for part in ("audit", "f", "Gaussian") for mode in MODES}
    (run,) = report["runs"]
    assert names < run["ranking"].keys()
    # What an earlier version has left out is asked of the heads that are there.
    path = tmp_path / "out" / "side" / "seed0.json"
    stored = json.loads(path.read_text())
    whole = stored["scores"].pop("Gaussian, folds")
    path.write_text(json.dumps(stored))
    lines = []
    run_audit_study(*shapes, tmp_path / "out", modes=MODES, **usual | dict(say=lines.append))
    assert json.loads(path.read_text())["scores"]["Gaussian, folds"] == whole
    assert [line.strip()[:6] for line in lines] == ["head 0", "head 1"]  # no features, no training


def scores_of_two_modes(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    kind = np.where(rng.random(400) < 0.3, "side", "")
    kind[:20] = "unclear"
    score = rng.normal(size=400) + (kind == "side")
    names = {f"{part}, {mode}" for part in ("audit", "f") for mode in ("unseen", "in-sample")}
    scores = {name: score.tolist() for name in names}
    scores["f, in-sample"] = (-score).tolist()
    return dict(kind=kind.tolist(), image=np.repeat(np.arange(100), 4).tolist(), scores=scores)


def test_costs_are_paired_differences_with_errors_over_images():
    runs = [scores_of_two_modes(seed) for seed in (0, 1)]
    rows = measure_costs(runs, ("unseen", "folds", "in-sample"), resamples=200)
    assert {row["mode"] for row in rows} == {"unseen", "in-sample"}  # nobody asked the folds
    found = {(row["part"], row["kind"], row["mode"]): row for row in rows}
    same, turned = (found[part, "side", "in-sample"] for part in ("evidence", "f"))
    assert same["change"] == same["error"] == [0, 0]
    expected = np.mean(
        [ranking(run["scores"]["f, unseen"], run["kind"])["side"] for run in runs], axis=0
    )
    assert found["f", "side", "unseen"]["value"] == pytest.approx(expected, abs=1e-4)
    assert turned["change"][0] == pytest.approx(1 - 2 * expected[0], abs=1e-4)
    # Of 400 independent annotations, two means of an AUROC near 0.76: Hanley and McNeil, 1982.
    a, good, bad = expected[0], 266, 114
    q1, q2 = a / (2 - a) - a * a, 2 * a * a / (1 + a) - a * a
    error = ((a * (1 - a) + (bad - 1) * q1 + (good - 1) * q2) / (good * bad)) ** 0.5
    assert turned["error"][0] == pytest.approx(2 * error / 2**0.5, rel=0.3)
    assert measure_costs(runs, ("unseen",)) == []
