"""Pooling as matrix products with the whole map: the values of the definition, and no operator."""

from __future__ import annotations

import pytest
import torch

import rational
from ebm_ops import prroi_pool, prroi_pool_levels
from ebm_ops.prroi_pool import by_level, dense, reference
from test_prroi_pool import ODD, SCALE, problem
from tolerances import TOLERANCE


def boxes(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Random boxes on two images, odd ones, thin ones, and one with all sides on nodes."""
    features, rois = problem(0, dtype=dtype)
    on_nodes = (1 / SCALE, 2 / SCALE, 7 / SCALE, 5 / SCALE)
    others = [*ODD.values(), (3.0, 3.0, 3.1, 9.0), on_nodes, (-20.0, -20.0, 60.0, 60.0)]
    others = torch.tensor([(1.0, *box) for box in others], dtype=torch.float64).to(dtype)
    return features, torch.cat([rois, others])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_slopes_are_those_of_the_definition(dtype):
    features, rois = boxes(dtype)
    pooled = dense.forward(features, rois, 3, 4, SCALE)
    wanted = reference.forward(features.double(), rois.double(), (3, 4), SCALE)
    torch.testing.assert_close(pooled.double(), wanted, **TOLERANCE[dtype])
    grad = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    slopes = dense.grad_rois(grad, features, rois, SCALE)
    wanted = reference.grad_rois(grad.double(), features.double(), rois.double(), SCALE)
    torch.testing.assert_close(slopes.double(), wanted, **TOLERANCE[dtype])


def test_no_box_has_a_result():
    features, rois = problem(0)
    assert dense.forward(features, rois[:0], 3, 4, SCALE).shape == (0, 3, 3, 4)


def test_boxes_of_several_levels_are_those_of_the_definition():
    features, rois = boxes(torch.float64)
    maps = [features, features[:, :, ::2, ::2].contiguous()]
    scales, levels = [SCALE, SCALE / 2], torch.arange(len(rois)) % 2
    pooled = dense.forward_levels(maps, rois, levels, 3, 4, scales)
    wanted = by_level.forward(maps, rois, levels, (3, 4), scales, reference.forward)
    torch.testing.assert_close(pooled, wanted, **TOLERANCE[torch.float64])
    slopes = dense.grad_rois_levels(pooled, maps, rois, levels, scales)
    wanted = by_level.grad_rois(pooled, maps, rois, levels, scales, reference.grad_rois)
    torch.testing.assert_close(slopes, wanted, **TOLERANCE[torch.float64])


def test_a_program_keeps_none_of_our_operators():
    class Pool(torch.nn.Module):
        def forward(self, features, rois, levels):
            maps, scales = [features, features], [SCALE, SCALE / 2]
            one = prroi_pool(features, rois, (3, 4), SCALE, validate=False)
            return one + prroi_pool_levels(maps, rois, levels, (3, 4), scales, validate=False)

    features, rois = boxes(torch.float32)
    inputs = features, rois, torch.arange(len(rois)) % 2
    with torch.no_grad():
        program = torch.export.export(Pool(), inputs)
        assert "ebm_ops" in str(program.graph)
        plain = program.run_decompositions(dense.decompositions())
    assert "ebm_ops" not in str(plain.graph)
    torch.testing.assert_close(plain.module()(*inputs), Pool()(*inputs), **TOLERANCE[torch.float32])


@pytest.mark.parametrize("side", rational.THIN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_thin_bins_keep_their_digits(side, dtype):
    """To the precision of the dtype, however thin. Compared with fractions."""
    g = torch.Generator().manual_seed(0)
    rois = rational.thin_boxes(side).to(dtype)
    features = torch.randn(1, 2, 4, 5, generator=g, dtype=dtype)
    grad = torch.randn(len(rois), 2, 3, 7, generator=g, dtype=dtype)
    values, slopes = rational.pool(features, rois, (3, 7), 0.25, grad)
    for found, expected in (
        (dense.forward(features, rois, 3, 7, 0.25), values),
        (dense.grad_rois(grad, features, rois, 0.25), slopes),
    ):
        torch.testing.assert_close(found.double(), expected, **TOLERANCE[dtype])


def test_thin_boxes_far_from_the_origin_keep_their_digits():
    """At any scale: a box is not rounded before its sides are subtracted."""
    g = torch.Generator().manual_seed(0)
    starts, sides = torch.tensor([3.1, 57.3, 119.7]), torch.tensor([1e-4, 3e-3, 0.05])
    x1, side = (t.flatten() / SCALE for t in torch.meshgrid(starts, sides, indexing="ij"))
    rois = torch.stack([0 * x1, x1, 0 * x1 + 1, x1 + side, 0 * x1 + 9], 1)
    features = torch.randn(1, 2, 5, 128, generator=g)
    grad = torch.randn(len(rois), 2, 2, 7, generator=g)
    wanted = reference.grad_rois(grad.double(), features.double(), rois.double(), SCALE)
    found = dense.grad_rois(grad, features, rois, SCALE)
    torch.testing.assert_close(found.double(), wanted, **TOLERANCE[torch.float32])
