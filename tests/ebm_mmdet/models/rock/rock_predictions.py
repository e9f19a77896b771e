"""Predictions of ROCK models, and their comparison."""

from __future__ import annotations

import copy

import torch
from mmdet.structures import DetDataSample

from tests.tolerances import TOLERANCE

NAMES = ["pred_scene", "pred_depth", "pred_normals"]


def predict(model, data) -> list[DetDataSample]:
    with torch.no_grad():
        return model.predict(data["inputs"], copy.deepcopy(data["data_samples"]))


def args_of(data) -> tuple:
    return data["inputs"], data["data_samples"]


def fields(sample: DetDataSample) -> dict[str, torch.Tensor]:
    found = sample.pred_instances
    return dict(
        bboxes=found.bboxes,
        scores=found.scores,
        labels=found.labels,
        scene=sample.pred_scene.scores,
        ranking=sample.pred_scene.ranking,
        depth=sample.pred_depth.depth,
        normals=sample.pred_normals.normals,
    )


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        one, other = fields(one), fields(other)
        for name, value in other.items():
            torch.testing.assert_close(one[name], value, **TOLERANCE[torch.float32], msg=name)
