"""A clock and a model for the steps of `fit`."""

from __future__ import annotations

import itertools

import pytest
from torch import nn

from ebm_mmdet.apis.fitting.clock import Clock
from ebm_mmdet.models.detectors import EBMDetector
from tests.ebm_mmdet.apis.fitting.known_objects import Answers


@pytest.fixture
def clock(tmp_path):
    """A clock of which every reading is a second later."""
    ticks = itertools.count()
    return Clock(tmp_path / "clock.json", 1e6, lambda: float(next(ticks)))


@pytest.fixture
def model():
    """The wrapper without a detector; what is tested begins after the detector."""
    model = EBMDetector.__new__(EBMDetector)
    nn.Module.__init__(model)
    model.energy_head, model.refiner = Answers(), None
    model.min_score, model.clip_boxes, model.candidates = 0.0, True, None
    model.legacy_plus_one = False
    return model
