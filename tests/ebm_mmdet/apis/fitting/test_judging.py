"""Tuning and judging see a gain where there is one."""

from __future__ import annotations

import numpy as np

from ebm_mmdet.apis.fitting.data import FitData
from ebm_mmdet.apis.fitting.image_set import ImageSet
from ebm_mmdet.apis.fitting.judging import Judging, judge_rows
from ebm_mmdet.apis.fitting.residuals import measure_residuals
from ebm_mmdet.apis.fitting.tuning import tune, tuned_methods
from tests.ebm_mmdet.apis.fitting.known_objects import (
    BASE,
    FACTS,
    TRUTH,
    Answers,
    Given,
    Seen,
    detected,
)


def test_a_head_that_knows_the_objects_pays(model, tmp_path, clock):
    heads = dict(energy=Answers(), l1=Answers())
    images = ImageSet(Given(), range(len(TRUTH)))
    positions = list(range(12))
    kind = Seen(detected)
    only_tuning = FitData(None, [], tune=ImageSet(Given(), positions), **FACTS)
    path = tmp_path / "residuals.json"
    measured = measure_residuals(kind, model, only_tuning, path, 1e9, clock, 0)
    tuned = tune(
        kind,
        model,
        heads,
        [detected(i) for i in positions],
        images,
        positions,
        measured,
        BASE,
        2,
        1e9,
        clock,
    )
    assert tuned.residuals == 24
    assert "prior" in tuned.refiner  # the step to begin with is far too short
    assert tuned.ap_after > tuned.ap_before + 0.2
    assert tuned.complete
    assert max(abs(x) for x in tuned.offset) > 0.01
    assert model.energy_head is not heads["energy"]
    assert (model.min_score, model.clip_boxes) == (0.0, True)

    methods = tuned_methods(kind, heads, tuned)
    judge = Judging(tmp_path / "judging", kind, images, 2, seed=0)
    judge.run(model, methods, 10.0, clock)
    some = len(judge.results)
    assert 1 <= some < len(TRUTH)  # the time was over
    judge = Judging(tmp_path / "judging", kind, images, 2, seed=0)  # as after an interruption
    assert len(judge.results) == some
    judge.run(model, methods, 1e9, clock)
    assert sorted(each["position"] for each in judge.results) == list(range(len(TRUTH)))

    rows = judge_rows(judge, 0.1)
    assert [row["method"] for row in rows] == [method.name for method in methods]
    detector, constant, regression, energy = rows
    assert regression["AP"] == detector["AP"]  # its offsets are zeros
    assert energy["change_AP"] > 20
    assert energy["change_AP"] > 2 * energy["error_AP"]
    assert energy["change_AP"] > constant["change_AP"]
    assert energy["IoU_TP"] > 97
    assert np.isclose(energy["AP"] - detector["AP"], energy["change_AP"], atol=2e-3)
    assert energy["ms_per_image"] >= detector["ms_per_image"] == 10.0
