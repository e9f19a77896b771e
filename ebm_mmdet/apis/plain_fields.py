"""What our detectors add to a prediction, as plain values for a file."""

from __future__ import annotations

import math

import torch
from mmdet.structures import DetDataSample

__all__ = ["plain_fields"]

FIELDS = (
    "detected_bboxes",
    "log_density",
    "accepted_steps",
    "box_std",
    "side_std",
    "side_interval",
    "ess",
    "log_prob",
)
"""Of ``pred_instances``, if the model gives them."""


def plain_fields(sample: DetDataSample) -> dict:
    """Fields of the boxes and the scene of an image, as lists; see ``EBMDetector``.

    ``modes`` and ``mode_mass`` are lists of different lengths, because JSON has no NaN.
    """
    result = {}
    found = sample.get("pred_instances")
    for name in FIELDS:
        if found is not None and name in found:
            result[name] = torch.as_tensor(getattr(found, name)).tolist()
    if found is not None and "modes" in found:
        exist = found.modes.isfinite().all(-1)
        rows = list(zip(found.modes, found.mode_mass, exist))
        result["modes"] = [boxes[kept].tolist() for boxes, _, kept in rows]
        result["mode_mass"] = [
            [None if math.isnan(value) else value for value in mass[kept].tolist()]
            for _, mass, kept in rows
        ]
    scene = sample.get("pred_scene")
    if scene is not None:
        result["scene"] = {name: value.tolist() for name, value in scene.items()}
    return result
