"""The spread of residuals: known for Gaussians, and unmoved by what is not the detector's."""

from __future__ import annotations

import pytest
import torch

from ebm_mmdet.apis import residual_spread

STD = torch.tensor([0.04, 0.05, 0.1, 0.08])


def gaussian(n: int, std=STD) -> torch.Tensor:
    return std * torch.randn(n, 4, generator=torch.Generator().manual_seed(0))


def test_the_geometric_mean_of_gaussian_residuals():
    spread = residual_spread(gaussian(20_000))
    assert spread.value == pytest.approx(float(STD.log().mean().exp()), rel=0.02)
    assert spread.boxes == 20_000


def test_outliers_and_rows_that_are_not_finite_hardly_count():
    clean = gaussian(400)
    broken = torch.full((3, 4), float("nan"))
    broken[1, 0] = float("inf")
    assert residual_spread(torch.cat([clean, broken])) == residual_spread(clean)
    far = torch.cat([clean, torch.full((20, 4), 5.0)])  # a twentieth
    assert residual_spread(far).value < 1.25 * residual_spread(clean).value


def test_few_boxes_give_no_spread():
    assert residual_spread(gaussian(19)) is None
    assert residual_spread(torch.zeros(0, 4)) is None
    assert residual_spread(gaussian(20)).boxes == 20
    rows = gaussian(20)
    rows[0, 2] = float("nan")
    assert residual_spread(rows) is None


@pytest.mark.parametrize(("size", "expected"), [(0.0, 0.02), (1e-4, 0.02), (3.0, 0.15)])
def test_the_spread_has_bounds(size, expected):
    assert residual_spread(size * gaussian(50, torch.ones(4))).value == pytest.approx(expected)


def test_half_precision_and_another_shape():
    half = residual_spread(gaussian(1000).half())
    assert half.value == pytest.approx(residual_spread(gaussian(1000)).value, rel=1e-3)
    with pytest.raises(ValueError, match=r"shape \(30, 7\); expected \(n, 4\)"):
        residual_spread(torch.zeros(30, 7))
