"""Linear layers whose products have at least float32 precision."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from .log_density import at_least_float32

__all__ = ["Float32Linear"]


class Float32Linear(nn.Linear):
    """``nn.Linear`` that multiplies in float32 even if its weights have half precision.

    Under autocast it behaves like ``nn.Linear``; weights in float64 are multiplied in float64.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) of any precision -> (..., out_features), float32 or better."""
        dtype = at_least_float32(self.weight.dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        return functional.linear(x.to(dtype), self.weight.to(dtype), bias)
