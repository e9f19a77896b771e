"""The steps of a climb: they shrink where f would fall, and what they learn from its gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Literal, get_args

import torch
from torch import Tensor

from .host_reads import records_graph

__all__ = ["Acceleration", "Steps", "barzilai_borwein", "check_climb"]

Acceleration = Literal["bb"]

LONGEST = 100.0
"""Longest step of Barzilai and Borwein, in plain steps: where f is straight none would be wrong."""


class Steps:
    """The steps of all points of a climb, as :func:`~ebm_mmdet.energy.gradient_ascent` has them.

    Args:
        step_size: λ, a number, (D,), or (N, D).
        y: (N, S, D) the starting points.
        decay: factor on the steps of a point after one that failed.
        acceleration: None or ``'bb'``.
        validate: whether to check the values of λ, for which the host waits if they are on a GPU.

    Raises:
        ValueError: λ is negative or not finite, or its shape does not fit.
    """

    def __init__(
        self,
        step_size: float | Sequence[float] | Tensor,
        y: Tensor,
        decay: float,
        acceleration: Acceleration | None = None,
        validate: bool = True,
    ) -> None:
        self.size = _step_sizes(step_size, y, validate)
        self.decay, self.acceleration = decay, acceleration
        if acceleration is not None:
            # The start of the last move of each point, ∇f there, and whether it was the last step.
            self.origin, self.slope_there = y, torch.zeros_like(y)
            self.just_moved = torch.zeros_like(y[..., :1], dtype=torch.bool)
            self.unit = self.size

    def next(self, y: Tensor, slope: Tensor) -> Tensor:
        """The next step (N, S, D) of points at y (N, S, D), where ∇f is ``slope`` (N, S, D)."""
        if self.acceleration is None:
            return self.size * slope
        found = barzilai_borwein(self.unit, y - self.origin, self.slope_there - slope)
        # Without a top along the last move, a step of twice its length is tried.
        found = (found.clamp(max=LONGEST) * self.unit).where(found > 0, 2 * self.size)
        self.size = found.where(self.just_moved, self.size)
        return self.size * slope

    def learn(self, moved: Tensor, y: Tensor, slope: Tensor) -> None:
        """Note which points (N, S) took their step from y (N, S, D), where ∇f is ``slope``."""
        moved = moved.unsqueeze(-1)
        self.size = self.size.where(moved, self.decay * self.size)
        if self.acceleration is not None:
            self.origin = y.where(moved, self.origin)
            self.slope_there = slope.where(moved, self.slope_there)
            self.just_moved = moved


def barzilai_borwein(unit: Tensor, way: Tensor, fall: Tensor) -> Tensor:
    """α (N, S, 1) of the step α λ ⊙ ∇f that leads to the top of f along the last move.

        α = Σ s r / Σ λ r²,    s the last move, r the fall of ∇f along it

    In units of λ, so that the unit of a coordinate does not matter. Not positive, or NaN, where f
    has no top along the move. Source: Barzilai and Borwein, IMA Journal of Numerical Analysis 1988;
    the shorter of their two steps, which the test of f refuses less often.
    """
    return (way * fall).sum(-1, keepdim=True) / (unit * fall.square()).sum(-1, keepdim=True)


def check_climb(num_steps: int, decay: float, acceleration: str | None, tolerance: float) -> None:
    """Check the settings of a climb, see :func:`~ebm_mmdet.energy.gradient_ascent`.

    Raises:
        ValueError: one is outside its range.
    """
    if num_steps < 0:
        raise ValueError(f"num_steps={num_steps} must be 0 (only evaluate) or more.")
    if not 0 <= decay <= 1:
        raise ValueError(f"decay={decay} must be in [0, 1]; it shrinks a step that failed.")
    if acceleration is not None and acceleration not in get_args(Acceleration):
        raise ValueError(f"acceleration={acceleration!r} is unknown; use 'bb' or None.")
    if not 0 <= tolerance < math.inf:
        raise ValueError(
            f"tolerance={tolerance} must be a finite gain of f, 0 (never stop) or more."
        )


def _step_sizes(step_size: float | Sequence[float] | Tensor, y: Tensor, validate: bool) -> Tensor:
    """λ for every point and coordinate, (N, S, D)."""
    if isinstance(step_size, Tensor):
        step = step_size.to(y, non_blocking=step_size.device.type == "cpu")
    else:
        step = torch.as_tensor(step_size, dtype=y.dtype).to(y.device, non_blocking=True)
    step = step.unsqueeze(1) if step.dim() == 2 else step
    try:
        step = step.expand(y.shape)
    except RuntimeError as error:
        raise ValueError(
            f"step_size of shape {tuple(step.shape)} does not fit points of shape "
            f"{tuple(y.shape)}; give a number, (D,), or (N, D)."
        ) from error
    if validate and not _are_step_sizes(step_size, torch.finfo(y.dtype).max):
        raise ValueError(f"step_size must be finite and not negative, got {step_size}.")
    return step


def _are_step_sizes(values: float | Sequence[float] | Tensor, largest: float) -> bool:
    """Whether all are in [0, largest]; only those on the device are read from it."""
    if isinstance(values, Tensor):
        return records_graph() or bool(((values >= 0) & (values <= largest)).all())
    if isinstance(values, Real):
        return 0 <= values <= largest
    return all(_are_step_sizes(value, largest) for value in values)
