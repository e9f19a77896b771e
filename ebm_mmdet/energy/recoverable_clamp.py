"""A clamp with a gradient that leads back inside the limits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["recoverable_clamp"]


class _RecoverableClamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.limits = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,), (low, high) = ctx.saved_tensors, ctx.limits
        outward = ((x < low) & (grad > 0)) | ((x > high) & (grad < 0))
        return grad.masked_fill(outward, 0), None, None


def recoverable_clamp(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp x to [low, high] with a gradient that leads back inside.

        value      min(max(x, low), high)
        gradient   that of the identity; 0 where x is outside and descent would move it further out

    An ordinary clamp has no gradient outside its limits, so a value that has left them stays there.

    Args:
        x: any shape, floating point; infinities count as large numbers.
        low: lower limit.
        high: upper limit.
    """
    clamped: Tensor = _RecoverableClamp.apply(x, float(low), float(high))  # type: ignore[no-untyped-call]
    return clamped
