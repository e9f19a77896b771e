"""Products that autocast does not round, nor their derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ebm_ops.bmm import bmm
from tolerances import TOLERANCE


def factors(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = (3, 2, 4), (3, 4, 5)
    return tuple(torch.randn(s, generator=g, dtype=dtype).requires_grad_() for s in shapes)


def test_numerical_derivatives():
    assert torch.autograd.gradcheck(bmm, factors())
    assert torch.autograd.gradgradcheck(bmm, factors())


@pytest.mark.parametrize("differentiable", [[], [0], [1], [0, 1]])
def test_values_and_every_order_are_those_of_torch_without_autocast(differentiable):
    found = []
    for product, dtype in ((bmm, torch.bfloat16), (torch.bmm, torch.float32)):
        pair = [x.detach() for x in factors(torch.float32)]
        wanted = [pair[k].requires_grad_() for k in differentiable]
        with torch.autocast("cpu", dtype, enabled=product is bmm):
            orders = [(product(*pair),)]
            for _ in range(3 if wanted else 0):
                value = sum(each.square().sum() for each in orders[-1])
                orders.append(torch.autograd.grad(value, wanted, create_graph=True))
        found.append(orders)
    torch.testing.assert_close(*found, **TOLERANCE[torch.float32])


def test_compiles_as_one_graph_with_its_gradient():
    a, b = factors(torch.float32)
    compiled = torch.compile(
        lambda *pair: bmm(*pair).square().sum(), fullgraph=True, backend="aot_eager"
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(compiled(a, b), (a, b))
    expected = torch.autograd.grad(torch.bmm(a, b).square().sum(), (a, b))
    torch.testing.assert_close(found, expected, **TOLERANCE[torch.float32])


def test_maps_over_an_axis():
    a, b = (x.detach() for x in factors())
    stack = torch.stack([a, 2 * a])
    slopes = torch.func.vmap(torch.func.grad(lambda x: bmm(x, b).square().sum()))(stack)
    expected = torch.stack([2 * (k * a @ b) @ b.mT for k in (1, 2)])
    torch.testing.assert_close(slopes, expected, **TOLERANCE[torch.float64])
