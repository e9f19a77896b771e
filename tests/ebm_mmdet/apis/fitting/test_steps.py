"""Tuning in its time, and from where it was stopped."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from mmengine.config import Config

from ebm_mmdet.apis.fitting import tuning
from ebm_mmdet.apis.fitting.clock import Clock
from ebm_mmdet.apis.fitting.data import FitData
from ebm_mmdet.apis.fitting.image_set import ImageSet
from ebm_mmdet.apis.fitting.plan import Plan
from ebm_mmdet.apis.fitting.steps import Steps
from ebm_mmdet.files import read_json
from ebm_mmdet.models.box_coding import encode_boxes
from tests.ebm_mmdet.apis.fitting.known_objects import (
    BASE,
    FACTS,
    TRUTH,
    Answers,
    Given,
    Seen,
    boxes_of,
    detected,
)


def tune(model, folder, left: float, images: int, residuals, tune_s: float):
    """The step of tuning in a fit that has ``left`` seconds, of which a reading takes one."""
    ticks = itertools.count()
    steps = Steps.__new__(Steps)
    steps.kind, steps.model, steps.folder = Seen(detected), model, folder
    steps.data = FitData(None, [], tune=ImageSet(Given(), range(images)), **FACTS)
    steps.clock = Clock(folder / "clock.json", left, lambda: float(next(ticks)))
    steps.say, steps.about_data = print, dict(residuals=residuals)
    steps.cfg = Config(dict(model=dict(refiner=BASE)))
    steps.num_classes, steps.max_dets = 2, 100
    plan = Plan(0.0, 0.0, tune_s, 10.0, 10.0, images, 1, True)
    return steps._tune(plan, dict(energy=Answers(), l1=Answers()))


@pytest.mark.parametrize(("left", "complete"), [(1e6, True), (40.0, False)])
def test_tuning_takes_what_the_training_has_left(model, tmp_path, left, complete):
    """The plan gives it a second; iterations that ended before their time leave more."""
    residuals = 0.05 * torch.randn(20, 4)
    tuned = tune(model, tmp_path, left, 4, residuals, tune_s=1.0)
    assert (tuned.images >= 1, tuned.complete) == (True, complete)


@pytest.mark.parametrize("compares_on_few", [False, True])
def test_an_interrupted_tuning_ends_as_one_that_was_not(
    model, tmp_path, monkeypatch, compares_on_few
):
    """Wherever it is stopped: no setting is compared twice, and the result is the same."""
    if compares_on_few:  # then the best setting is moved once more, with all boxes
        monkeypatch.setattr(tuning, "comparing_score", lambda *_: 0.7)
    calls, stop_at = [], [10**9]
    real = tuning.Compared.add

    def stops(self, setting, ap):
        calls.append(json.dumps(setting))
        if len(calls) == stop_at[0]:
            raise KeyboardInterrupt
        real(self, setting, ap)

    monkeypatch.setattr(tuning.Compared, "add", stops)

    def result(folder):
        folder.mkdir(exist_ok=True)
        residuals = encode_boxes(torch.cat(TRUTH[:12]), boxes_of(range(12)))
        return tune(model, folder, 1e6, 2, residuals, tune_s=1e5)

    whole, every = result(tmp_path / "whole"), list(calls)
    assert "prior" in whole.refiner
    assert whole.ap_after > whole.ap_before
    for number in (1, 3, 6, len(every) - 1, len(every)):
        calls.clear()
        folder, stop_at[0] = tmp_path / str(number), number
        with pytest.raises(KeyboardInterrupt):
            result(folder)
        assert read_json(folder / "clock.json")["seconds"] > 0
        stop_at[0] = 10**9
        assert result(folder) == whole
        assert calls[number:] == every[number - 1 :]
        assert read_json(folder / "tuning.json") == read_json(tmp_path / "whole" / "tuning.json")
