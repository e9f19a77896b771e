"""What a refinement in 3D asks of a GPU, counted without one."""

from __future__ import annotations

import pytest
import torch

from ebm_mmdet.energy import gradient_ascent
from ebm_mmdet.models import EnergyHead
from ebm_mmdet3d.models import EBM3DRefineHead
from tests.ebm_mmdet.models.device_work import DeviceWork

pytest.importorskip("triton")

BOXES, STEPS = 100, 10
NOISE = dict(type="GaussianMixtureNoise", sigmas=[[0.1] * 7], dim=7)


def test_a_step_waits_for_nothing_and_asks_for_few_operations(monkeypatch):
    head = EBM3DRefineHead(
        num_classes=3,
        objective=dict(type="NCEObjective", noise=NOISE),
        in_channels=16,
        fc_channels=(32, 32),
    ).to("meta")
    monkeypatch.setattr(EnergyHead, "check_targets", lambda *_: None)  # reads once per batch
    maps = [torch.zeros(1, 16, 200, 176, device="meta")]
    zeros = torch.zeros(BOXES, dtype=torch.int64, device="meta")
    counts = []
    for steps in (0, STEPS):
        with DeviceWork() as work:
            feats = head.prepare(maps)
            fn = head.log_density_fn(feats, torch.zeros(BOXES, 7, device="meta"), zeros, zeros)
            gradient_ascent(fn, torch.zeros(BOXES, 7, device="meta"), [0.01] * 7, steps)
        assert not work.waits
        counts.append(work.operations.total())
    assert (counts[1] - counts[0]) / STEPS <= 90
    assert not work.wrong_strides
