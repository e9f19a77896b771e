"""Evaluate a log-density, and check what came back."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .contracts import LogDensityFn

__all__ = ["at_least_float32", "evaluate", "evaluate_finite", "is_finite"]


def evaluate(log_density_fn: LogDensityFn, y: Tensor) -> Tensor:
    """Evaluate f at y (N, S, D); the result (N, S) has at least float32 precision.

    Raises:
        ValueError: the function returned another shape than (N, S).
    """
    f = log_density_fn(y)
    if f.shape != y.shape[:-1]:
        raise ValueError(
            f"log_density_fn returned shape {tuple(f.shape)} for points of shape "
            f"{tuple(y.shape)}; expected one value per point, {tuple(y.shape[:-1])}. "
            "Squeeze a trailing dimension of size one, or select the class inside the function."
        )
    return f.to(at_least_float32(f.dtype))


@torch.no_grad()
def evaluate_finite(log_density_fn: LogDensityFn, y: Tensor) -> Tensor:
    """Evaluate f at y (N, S, D) without a graph: (N, S), -inf where f is not finite; N may be 0.

    Autocast is off, because weights and comparisons need differences of f that half precision
    cannot resolve.
    """
    if y.numel() == 0:
        return y.new_zeros(y.shape[:-1])
    with torch.autocast(y.device.type, enabled=False):
        f = evaluate(log_density_fn, y)
    return f.where(is_finite(f), -torch.inf)


def is_finite(x: Tensor) -> Tensor:
    """``x.isfinite()`` in two operations of the device instead of four."""
    return x.abs() < math.inf


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: float64 stays, everything narrower becomes float32."""
    return torch.promote_types(dtype, torch.float32)
