"""The numbers by which docstrings and pages explain where a cell of a map lies."""

from __future__ import annotations

import pytest
import torch

from ebm_mmdet.models import EBMBBoxHead
from ebm_ops import rotated_grid_pool

COLUMNS = torch.arange(8.0).expand(1, 1, 8, 8)  # cell i holds the number i


@pytest.mark.parametrize(
    ("roi_shift", "read", "weights"),
    [(0.0, 1.3, {1: 0.7, 2: 0.3}), (-0.5, 0.8, {0: 0.2, 1: 0.8})],
)
def test_roi_shift(roi_shift, read, weights):
    """Cell i lies at stride (i - roi_shift) pixels; x = 10.4 px at stride 8 is c = 1.3."""
    head = EBMBBoxHead(
        num_classes=1,
        in_channels=1,
        strides=[8],
        pool_size=1,
        roi_shift=roi_shift,
        fc_channels=[4],
        objective=dict(
            type="NCEObjective", noise=dict(type="GaussianMixtureNoise", sigmas=[0.1], dim=4)
        ),
    )

    def value_at(x: float) -> float:
        point = torch.tensor([[x - 0.01, 16.0, x + 0.01, 16.02]])
        pooled = head.pool([COLUMNS], point, torch.tensor([0]))
        return pooled.item()

    assert value_at(10.4) == pytest.approx(read, abs=1e-3)
    assert sum(cell * weight for cell, weight in weights.items()) == pytest.approx(read)
    for cell in (1, 2, 3):
        assert value_at(8 * (cell - roi_shift)) == pytest.approx(cell, abs=1e-3)


@pytest.mark.parametrize(("pixel_offset", "read"), [(0.0, 1.3), (0.25, 1.05)])
def test_pixel_offset(pixel_offset, read):
    """Pixel i lies at x0 + (i + pixel_offset) cell_size; 0.416 m in cells of 0.32 m is 1.3."""

    def value_at(x: float) -> float:
        box = torch.tensor([[x, 0.64, 1e-3, 1e-3, 0.0]])
        place = dict(origin=(0.0, 0.0), cell_size=0.32, pixel_offset=pixel_offset)
        return rotated_grid_pool(COLUMNS, box, torch.tensor([0]), (1, 1), **place).item()

    assert value_at(0.416) == pytest.approx(read, abs=1e-4)
    for pixel in (1, 2, 3):
        assert value_at((pixel + pixel_offset) * 0.32) == pytest.approx(pixel, abs=1e-4)
