"""Pooling as matrix products with the whole map: the values of the definition, and no operator."""

from __future__ import annotations

import pytest
import torch

from ebm_ops import prroi_pool, prroi_pool_levels
from ebm_ops.prroi_pool import dense, reference
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


def test_levels_are_those_of_the_operator():
    features, rois = boxes(torch.float64)
    maps, scales = [features, features[:, :, ::2, ::2] + 1, features[:, :, :4]], [SCALE, 0.15, 0.2]
    levels = torch.arange(len(rois)) % 2 * 2  # none on the map between
    grad = torch.randn(len(rois), 3, 3, 4, generator=torch.Generator().manual_seed(1)).double()
    ours, plain = torch.ops.ebm_ops, dense.decompositions()
    for operator, arguments in (
        (ours.prroi_pool_levels.default, (maps, rois, levels, 3, 4, scales)),
        (ours.prroi_pool_levels_grad_rois.default, (grad, maps, rois, levels, scales)),
    ):
        found, wanted = plain[operator](*arguments), operator(*arguments)
        torch.testing.assert_close(found, wanted, **TOLERANCE[torch.float64])


def test_no_box_has_a_result():
    features, rois = problem(0)
    assert dense.forward(features, rois[:0], 3, 4, SCALE).shape == (0, 3, 3, 4)


def test_a_program_keeps_none_of_our_operators():
    class Pool(torch.nn.Module):
        def forward(self, features, rois):
            levels = (rois[:, 3] > 10).long()
            some = prroi_pool_levels([features] * 2, rois, levels, (3, 4), [SCALE] * 2)
            return 0.5 * (some + prroi_pool(features, rois, (3, 4), SCALE, validate=False))

    features, rois = boxes(torch.float32)
    with torch.no_grad():
        program = torch.export.export(Pool(), (features, rois))
        assert "ebm_ops" in str(program.graph)
        plain = program.run_decompositions(dense.decompositions())
    assert "ebm_ops" not in str(plain.graph)
    wanted = prroi_pool(features, rois, (3, 4), SCALE)
    found = plain.module()(features, rois)
    torch.testing.assert_close(found, wanted, **TOLERANCE[torch.float32])
