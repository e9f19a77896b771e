"""The derivatives of a box gradient, to any order, for operators whose kernels do not have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["double_backward"]


def double_backward(
    forward: Callable[..., Tensor],
    grad: Tensor,
    boxes: Tensor,
    others: Sequence[Tensor],
    upstream: Tensor,
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Derivatives of `<upstream, d<grad, forward(boxes, *others)> / d boxes>`, by autograd.

    It is the backward pass of an operator that computes `dL/d boxes`. What it returns has a graph
    of its own where gradients are recorded, so that the derivatives of any order follow.

    Args:
        forward: the definition of the operator in differentiable operations, of `boxes` and
            `others`.
        grad: `dL/d pooled`, in the shape of the result of `forward`.
        boxes: by which the gradient is taken.
        others: the further tensors of `forward` that may need a derivative, such as the maps.
        upstream: in the shape of `boxes`.
        needed: of `grad`, `boxes` and each of `others`, whether the derivative by it is needed.

    Returns:
        The derivative by `grad`, `boxes` and each of `others`, or None where it is not needed.
    """
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases, where the graph continues: `grad` may itself depend on the boxes, and derivatives
        # by the tensors themselves would count that path twice, here and outside.
        inputs = [
            t.view_as(t) if further and t.requires_grad else t.detach().requires_grad_()
            for t in (grad, boxes, *others)
        ]
        grad, boxes, *others = inputs
        pooled = forward(boxes, *others)
        (by_boxes,) = torch.autograd.grad(pooled, boxes, grad, create_graph=True)
        wanted = [t for t, need in zip(inputs, needed, strict=True) if need]
        found = iter(
            torch.autograd.grad(
                by_boxes, wanted, upstream, create_graph=further, materialize_grads=True
            )
        )
    return [next(found) if need else None for need in needed]
