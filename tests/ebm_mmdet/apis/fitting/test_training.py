"""Training goes on exactly where it stopped, by the schedule that the config says."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import PARAM_SCHEDULERS
from torch import nn

from ebm_mmdet.apis.config_text import plain
from ebm_mmdet.apis.fitting.training import HeadTraining, learning_rate_factor
from ebm_mmdet.apis.head_settings import schedule


def test_learning_rate_is_that_of_the_written_config():
    look = SimpleNamespace(trunk=None)
    settings = plain(schedule(look, 1000))
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    schedulers = [
        PARAM_SCHEDULERS.build(each, default_args=dict(optimizer=optimizer))
        for each in settings["param_scheduler"]
    ]
    for iteration in range(1000):
        expected = optimizer.param_groups[0]["lr"]
        # mmengine's warm-up ends an iteration earlier.
        assert learning_rate_factor(iteration / 1000) == pytest.approx(expected, abs=0.015)
        optimizer.step()
        for each in schedulers:
            each.step()
    shares = (0, 0.05, 0.525, 1, 1.2)
    found = [learning_rate_factor(share) for share in shares]
    assert found == pytest.approx([1 / 3, 1, 0.505, 0.01, 0.01])


@pytest.mark.parametrize("max_iters", [1, 2, 10])
def test_the_shortest_schedule_can_be_built(max_iters):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    for each in plain(schedule(SimpleNamespace(trunk=(8,)), max_iters))["param_scheduler"]:
        PARAM_SCHEDULERS.build(each, default_args=dict(optimizer=optimizer))


class Line(nn.Module):
    """A head that learns w of maps · w."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))

    def prepare(self, maps):
        return maps

    def loss(self, feats, boxes, batch_index, labels):
        noise = torch.randn(3)
        return {"loss_energy": ((feats[0].flatten() * self.w - noise) ** 2).mean()}


OPTIMIZER = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.1))


def draw(generator):
    none = torch.zeros(0)
    return [torch.randn(1, 3, 1, 1, generator=generator)], none, none, none


def test_an_interrupted_training_ends_as_one_that_was_not(tmp_path, clock):
    def training(name):
        return HeadTraining(dict(energy=Line()), OPTIMIZER, tmp_path / name, 40, seed=1)

    whole = training("whole.pth")
    whole.run(draw, 1e9, clock)
    drawn = itertools.count()

    def stops(generator):
        if next(drawn) == 17:
            raise KeyboardInterrupt
        return draw(generator)

    first = training("half.pth")
    with pytest.raises(KeyboardInterrupt):
        first.run(stops, 1e9, clock)
    assert first.iteration == 17
    assert not first.finished
    rest = training("half.pth")
    assert rest.iteration == 17
    rest.run(draw, 1e9, clock)
    assert rest.finished
    assert torch.equal(rest.heads["energy"].w, whole.heads["energy"].w)
    assert training("half.pth").finished


def test_training_ends_with_its_time(tmp_path, clock):
    training = HeadTraining(dict(energy=Line()), OPTIMIZER, tmp_path / "a.pth", 10**9)
    training.run(draw, 30.0, clock)
    assert training.finished
    assert 5 <= training.iteration <= 30  # each iteration reads the clock at least once


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path, clock):
    def bad(generator):
        maps, *rest = draw(generator)
        return [maps[0] * float("nan")], *rest

    training = HeadTraining(dict(energy=Line()), OPTIMIZER, tmp_path / "a.pth", 10)
    with pytest.raises(RuntimeError, match="loss of the energy head is nan at iteration 0"):
        training.run(bad, 1e9, clock)
