"""Climbs for the tests of CUDA graphs."""

from __future__ import annotations

import torch

from tests.ebm_mmdet.models.test_device_work import (
    STEP,
    boxes_of_all_levels,
    feature_maps,
    make_head,
)

__all__ = ["COUNT", "STEP", "boxes_of_all_levels", "feature_maps", "function", "make_head"]

COUNT = 5


def function(head=None, count: int = COUNT, **settings):
    head = head or make_head(**settings)
    zeros = torch.zeros(count, dtype=torch.int64)
    return head.log_density_fn(
        head.prepare(feature_maps("cpu")), boxes_of_all_levels(count), zeros, zeros
    )
