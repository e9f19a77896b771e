"""Which settings of a refiner are tried, in which order, and on which boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.registry import TASK_UTILS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from ebm_mmdet.apis.fitting import detections, tuning
from ebm_mmdet.apis.fitting.detections import Detected, Method
from ebm_mmdet.apis.fitting.images import Images
from tests.ebm_mmdet.apis.fitting.known_objects import BASE, Answers, detected

PRIOR = ([0.04, 0.04, 0.1, 0.1], [0.01, 0.0, 0.0, 0.0])


def tried(base, prior, ap, regresses=False):
    """The settings that are tried, in order, where ``ap`` says how good each is."""
    best, best_ap, every = dict(base), -1.0, []
    for settings in tuning._rounds(base, prior, regresses):
        for each in settings(best):
            every.append(each)
            if ap(each) > best_ap:
                best, best_ap = each, ap(each)
    return every, best


def test_a_prior_is_tried_before_steps():
    """Where time ends early, what is left is what most likely gains."""
    every, _ = tried(BASE, PRIOR, lambda setting: 0.0)
    assert ["prior" in each for each in every].index(False) == 5  # four strengths, and the bias
    assert every[0]["prior"]["scale"] == pytest.approx((1 / 8) ** 0.5, abs=1e-3)
    assert "step_size" not in every[0]


@pytest.mark.parametrize(
    ("wins", "last"),
    [
        # The best regression, then the base's climb from there.
        (lambda each: each.get("regression_length") == 0.5, dict(BASE, regression_length=0.5)),
        # The best climb, from where the regression has led.
        (lambda each: "prior" in each, dict(regression_steps=1, num_steps=10)),
    ],
)
def test_regression_is_tried_first_and_then_with_the_best_climb(wins, last):
    every, best = tried(BASE, PRIOR, lambda each: float(wins(each)), regresses=True)
    assert [each["num_steps"] for each in every[:3]] == [0, 0, 0]
    assert "prior" in every[3]
    assert not any("regression_steps" in each for each in every[3:-1])
    assert last.items() <= every[-1].items()
    assert every[-1]["regression_steps"] == 1
    assert len(every) <= tuning.MOST_SETTINGS
    assert wins(best)
    for each in every:
        TASK_UTILS.build(dict(each))


def strength(setting):
    return setting["prior"]["scale"] ** 2 if "prior" in setting else None


@pytest.mark.parametrize(
    ("peak", "expected"), [(8.0, 8.0), (1 / 128, 1 / 128), (1 / 2, 1 / 2), (1e3, 8.0)]
)
def test_a_best_strength_at_the_end_is_not_the_last(peak, expected):
    def ap(setting):
        if "prior" not in setting:
            return -0.5
        return 1 / (1 + abs(np.log(strength(setting) / peak)))

    every, best = tried(BASE, PRIOR, ap)
    assert strength(best) == pytest.approx(expected, rel=1e-2)
    assert len(every) <= tuning.MOST_SETTINGS


@pytest.mark.parametrize(("factor", "listed"), [(16.0, True), (1 / 16, False), (4.0, False)])
def test_a_best_step_at_the_end_is_not_the_last(factor, listed):
    base = {**BASE, "step_size": [1e-4, 2e-4] if listed else 1e-4}

    def ap(setting):
        step = setting.get("step_size")
        if step is None:
            return 0.0
        return 1 / (1 + abs(np.log((step[0] if listed else step) / (1e-4 * factor))))

    _, best = tried(base, PRIOR, ap)
    expected = [1e-4 * factor, 2e-4 * factor] if listed else 1e-4 * factor
    assert best["step_size"] == pytest.approx(expected)


def test_a_larger_min_score_needs_no_refinement(model):
    """Boxes above it are where they are with all boxes refined, the others where they were."""
    head, image = Answers(), detected(0)
    refiner = TASK_UTILS.build({**BASE, "step_size": 1e-5})

    def records(method):
        return Images().records(0, detections.refine(model, method, image)[0], 2)

    whole, part = (records(Method("x", refiner, head, low)) for low in (0.0, 0.7))
    unmoved = records(detections.unrefined(head))
    mixed = tuning._moved_above(0.7, whole, unmoved)
    assert mixed == part
    assert [one == other for one, other in zip(mixed, unmoved)] == [False, True]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.9, 0.8, 0.7, 0.31, 0.02], 0.3),
        ([0.9, 0.8, 0.25, 0.02, 0.01], 0.2),
        ([0.9, 0.11, 0.1, 0.05, 0.01], 0.1),
        ([0.9, 0.06, 0.05, 0.05, 0.01], 0.05),
        ([0.9, 0.04, 0.04, 0.04, 0.01], 0.0),
        ([], 0.0),
    ],
)
def test_settings_are_compared_on_one_and_a_half_boxes_per_object(scores, expected):
    found = InstanceData(bboxes=torch.zeros(len(scores), 4), scores=torch.tensor(scores))
    image = Detected((), DetDataSample(pred_instances=found), 0.0)
    assert tuning.comparing_score(Images(), [image], objects=2) == expected
