"""How the time of a fit is divided."""

from __future__ import annotations

import pytest

from ebm_mmdet.apis.fitting.data import FitData
from ebm_mmdet.apis.fitting.image_set import ImageSet
from ebm_mmdet.apis.fitting.plan import Measured, make_plan
from tests.ebm_mmdet.apis.fitting.known_objects import FACTS, Given


def test_time_is_divided_as_promised():
    train, tune_set = [0] * 100, ImageSet(Given(), range(24))
    data = FitData(None, train, tune=tune_set, **{**FACTS, "judge": tune_set})
    costs = dict(detect_s=0.1, refine_s=0.4, view_s=0.05, view_bytes=1000, step_s=0.2)
    plan = make_plan(Measured(compare_s=0.08, **costs), data, 300, 4.0)
    parts = plan.cache_s + plan.train_s + plan.tune_s + plan.judge_s + plan.end_s
    assert parts == pytest.approx(300)
    assert plan.tune_s <= 300 / 7
    assert plan.judge_s <= 300 / 4
    # Fewer boxes to compare settings on are more images in the same time.
    all_boxes = make_plan(Measured(compare_s=0.4, **costs), data, 300, 4.0)
    assert plan.tune_images == 24 > all_boxes.tune_images >= 7
