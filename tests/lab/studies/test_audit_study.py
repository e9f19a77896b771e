"""The audit study, from annotations with planted errors to its table."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("mmdet", reason="needs mmdet, which `make test` installs")

from ebm_mmdet.datasets import write_coco
from lab.studies.audit_study import RIVALS, run_audit_study
from lab.studies.audit_table import audit_page
from tests.ebm_mmdet.apis.user_project import ONE_STAGE, make_project


def test_a_study_has_a_row_for_each_rival_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path / "my work", ONE_STAGE))
    folder = tmp_path / "my work" / "shapes"
    val = write_coco(folder, "val", 5, 3, image_size=(96, 96), extent=(20, 40))
    content = json.loads(val.read_text())
    for category, name in zip(content["categories"], ("ape", "bat", "cat")):
        category["name"] = name
    val.write_text(json.dumps(content))
    given = (*map(tmp_path.__truediv__, ("my work/my_detector.py", "my work/epoch_12.pth")), val)
    options = dict(
        images=folder / "images",
        seeds=(0, 1),
        kinds=("side",),
        share=0.4,
        iterations=2,
        say=lambda line: None,
    )
    report = run_audit_study(*given, val, tmp_path / "out", modes=("unseen",), **options)
    page = audit_page(report)
    for name in ("audit, unseen", "f, unseen", *RIVALS, "detector", "random"):
        assert f"| {name} |" in page
        values = np.array([run["ranking"][name]["side"] for run in report["runs"]])
        assert ((values >= 0) & (values <= 1)).all()
    assert "±" in page
    assert len(set(json.dumps(run["ranking"]) for run in report["runs"])) == 2
    assert report["settings"]["rivals"] == list(RIVALS)
    again = run_audit_study(*given, val, tmp_path / "out", modes=("unseen",), **options)
    assert json.dumps(again) == json.dumps(report)  # NaN is not equal to itself
    with pytest.raises(FileExistsError, match="a study with other settings"):
        run_audit_study(*given, val, tmp_path / "out", **{**options, "iterations": 3})
    alone = run_audit_study(
        *given, val, tmp_path / "alone", modes=("unseen",), rivals=False, **options
    )
    names = alone["runs"][0]["ranking"].keys()
    assert "audit, unseen" in names
    assert not names & set(RIVALS)
