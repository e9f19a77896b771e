"""What the hook writes can be read by the allow-list."""

from __future__ import annotations

import datetime
import enum
import pickle
import zoneinfo
from collections import defaultdict, deque

import numpy as np
import pytest
import torch
from mmengine.registry import PARAM_SCHEDULERS

from ebm_mmdet.engine import ReadableCheckpointHook, read_checkpoint
from tests.ebm_mmdet.engine.training_states import METAINFO, Unknown


@pytest.mark.parametrize("name", METAINFO)
def test_what_can_be_read_is_written_unchanged(name):
    checkpoint = {"meta": {"dataset_meta": METAINFO[name]}}
    before = pickle.dumps(checkpoint["meta"]["dataset_meta"])
    ReadableCheckpointHook().before_save_checkpoint(None, checkpoint)
    after = checkpoint["meta"]["dataset_meta"]
    if name not in ("whole config", "numpy objects"):  # become a ConfigDict, a list
        assert repr(after) == repr(METAINFO[name])
        # What mmengine compares when it resumes, to warn of another data set.
        assert len(pickle.dumps(after)) == len(before)


class Colour(enum.Enum):
    RED = (255, 0, 0)


class Name(str):
    pass


def test_what_could_not_be_read_is_written_as_what_it_stands_for(tmp_path, messages):
    checkpoint = {
        "meta": {
            "dataset_meta": {
                "queue": deque([1, 2], maxlen=2),
                "default": defaultdict(list, a=[Name("x")]),
                "colour": Colour.RED,
                "strange": [1, Unknown()],
                "records": np.array([(1, 2.5)], dtype=[("a", int), ("b", float)]),
                "masked": np.ma.masked_array([1, 2], mask=[False, True]),
                "local time": datetime.datetime(2020, 1, 2, tzinfo=zoneinfo.ZoneInfo("UTC")),
                "type": float,
            }
        },
        "state_dict": {"w": torch.ones(1)},
    }
    weights = checkpoint["state_dict"]
    ReadableCheckpointHook().before_save_checkpoint(None, checkpoint)
    torch.save(checkpoint, tmp_path / "x.pth")
    state = read_checkpoint(tmp_path / "x.pth")
    assert state["meta"]["dataset_meta"] == {
        "queue": [1, 2],
        "default": {"a": ["x"]},
        "colour": (255, 0, 0),
        "strange": [1, "<Unknown>"],
        "records": [(1, 2.5)],
        "masked": [1, None],
        "local time": "2020-01-02T00:00:00+00:00",
        "type": float,
    }
    (line,) = messages()
    assert "meta.dataset_meta.strange.1" in line
    assert "Unknown" in line
    assert checkpoint["state_dict"] is weights


def schedulers():
    """Every scheduler of mmengine for the learning rate, as a training has them."""
    common = dict(begin=0, end=5)
    special = dict(
        ConstantLR=dict(factor=0.5, **common),
        CosineAnnealingLR=dict(eta_min=0.1, **common),
        CosineRestartLR=dict(periods=[2, 3], restart_weights=[1, 1], eta_min=0.1),
        ExponentialLR=dict(gamma=0.9, **common),
        LinearLR=dict(start_factor=0.1, **common),
        MultiStepLR=dict(milestones=[1, 2], **common),
        OneCycleLR=dict(eta_max=1.0, total_steps=5),
        PolyLR=dict(**common),
        ReduceOnPlateauLR=dict(monitor="loss"),
        StepLR=dict(step_size=2, **common),
    )
    return [pytest.param(name, options, id=name) for name, options in special.items()]


@pytest.mark.parametrize(("name", "options"), schedulers())
def test_the_state_of_every_scheduler_is_read_back(name, options, tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    scheduler = PARAM_SCHEDULERS.build(
        dict(type=name, **options), default_args=dict(optimizer=optimizer)
    )
    checkpoint = {"param_schedulers": [scheduler.state_dict()]}
    ReadableCheckpointHook().before_save_checkpoint(None, checkpoint)
    torch.save(checkpoint, tmp_path / "x.pth")
    (state,) = read_checkpoint(tmp_path / "x.pth")["param_schedulers"]
    assert state.keys() == scheduler.state_dict().keys()
    assert state.get("anneal_func") is scheduler.state_dict().get("anneal_func")
