"""The derivatives of a box gradient are those that autograd computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ebm_ops.double_backward import double_backward
from tolerances import TOLERANCE

EXACT = TOLERANCE[torch.float64]


def pool(boxes: Tensor, features: Tensor) -> Tensor:
    """(N, 2) and (3,) -> (N, 3): smooth, and not linear in either."""
    return (boxes[:, :1] * features).sin() * boxes[:, 1:].exp() * features


class Slope(torch.autograd.Function):
    """`d<grad, pool(boxes, features)> / d boxes`, with `double_backward` as its derivative."""

    @staticmethod
    def forward(ctx, grad, boxes, features):
        ctx.save_for_backward(grad, boxes, features)
        with torch.enable_grad():
            boxes = boxes.detach().requires_grad_()
            return torch.autograd.grad(pool(boxes, features), boxes, grad)[0]

    @staticmethod
    def backward(ctx, upstream):
        grad, boxes, features = ctx.saved_tensors
        return tuple(double_backward(pool, grad, boxes, [features], upstream, ctx.needs_input_grad))


def slope_by_autograd(grad: Tensor, boxes: Tensor, features: Tensor) -> Tensor:
    boxes = boxes.view_as(boxes)
    return torch.autograd.grad(pool(boxes, features), boxes, grad, create_graph=True)[0]


def problem() -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = (4, 3), (4, 2), (3,)
    return tuple(torch.randn(s, generator=g, dtype=torch.float64).requires_grad_() for s in shapes)


def test_numerical_derivatives():
    assert torch.autograd.gradcheck(Slope.apply, problem())
    assert torch.autograd.gradgradcheck(Slope.apply, problem())


def test_every_order_is_that_of_autograd():
    found = []
    for slope in (Slope.apply, slope_by_autograd):
        inputs = problem()
        value, orders = slope(*inputs).square().sum(), []
        for _ in range(3):
            orders.append(torch.autograd.grad(value, inputs, create_graph=True))
            value = sum(each.square().sum() for each in orders[-1])
        found.append(orders)
    torch.testing.assert_close(*found, **EXACT)


def test_a_gradient_that_depends_on_the_boxes_counts_once():
    """As in score matching, where `grad` comes out of layers that have read the pooled values."""
    found = []
    for slope in (Slope.apply, slope_by_autograd):
        _, boxes, features = problem()
        value = slope(boxes.repeat(1, 2)[:, :3] * features, boxes, features).square().sum()
        (first,) = torch.autograd.grad(value, boxes, create_graph=True)
        found.append([first, *torch.autograd.grad(first.square().sum(), (boxes, features))])
    torch.testing.assert_close(*found, **EXACT)


@pytest.mark.parametrize("needed", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1)])
def test_only_what_is_needed(needed):
    inputs = problem()
    upstream = torch.ones_like(inputs[1])
    found = double_backward(pool, *inputs[:2], inputs[2:], upstream, needed)
    assert [each is not None for each in found] == [bool(each) for each in needed]
    with torch.no_grad():
        last = double_backward(pool, *inputs[:2], inputs[2:], upstream, needed)
    for a, b in zip(found, last):
        if a is not None:
            assert a.requires_grad
            assert not b.requires_grad
            assert torch.equal(a, b)


def test_an_input_without_influence_has_zeros():
    grad, boxes, features = problem()

    def linear(boxes: Tensor, features: Tensor) -> Tensor:
        return boxes.sum(1, keepdim=True).expand(-1, 3)

    found = double_backward(linear, grad, boxes, [features], torch.ones_like(boxes), (1, 1, 1))
    assert found[0].any()
    assert not found[1].any()
    assert not found[2].any()
