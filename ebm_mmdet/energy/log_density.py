"""The one type that heads, objectives and refiners exchange: an unnormalised log-density."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["LogDensityFn", "SelectableLogDensityFn", "evaluate"]


class LogDensityFn(Protocol):
    """f with p(y | x_n) ∝ exp f_n(y), for N targets whose features x_n are bound inside.

    ``fn(y (N, S, D) float32) -> (N, S) float32``: S points per target, each a vector of D encoded
    coordinates. Entry (n, s) may depend on y[n, s] only, never on another point. f is defined up
    to a constant per target, and is differentiable in y.

    Refinement calls the function with gradients enabled, inference mode off and autocast off,
    whatever the mode of the caller. Features that were computed in inference mode therefore have
    to be cloned, and features in half precision cast to float32, by whoever binds them.
    """

    def __call__(self, y: Tensor) -> Tensor: ...


@runtime_checkable
class SelectableLogDensityFn(LogDensityFn, Protocol):
    """A log-density that can be narrowed to some of its targets.

    ``fn.select(index (n,) int64)(y (n, S, D)) == fn(full)[index]`` wherever ``full[index] == y``.
    Refinement uses it to stop paying for targets that no longer move.
    """

    def select(self, index: Tensor) -> LogDensityFn: ...


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


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: float64 stays, everything narrower becomes float32."""
    return torch.promote_types(dtype, torch.float32)
