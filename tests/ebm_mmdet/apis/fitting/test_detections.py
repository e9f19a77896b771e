"""Refinement of given detections, with another head and refiner for a while."""

from __future__ import annotations

import pytest

from ebm_mmdet.apis.fitting import detections
from tests.ebm_mmdet.apis.fitting.known_objects import Answers, detected


def test_refine_puts_everything_back_after_an_error(model):
    def fails(*_, **__):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        detections.refine(model, detections.Method("x", fails, Answers(), 0.5), detected(0))
    assert (model.min_score, model.clip_boxes) == (0.0, True)
