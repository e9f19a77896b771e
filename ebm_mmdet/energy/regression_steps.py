"""First steps by regression, which f has to approve: most of a climb, without gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .contracts import RefinementResult, RefinementTrace, RegressingLogDensityFn
from .log_density import at_least_float32, is_finite

__all__ = ["check_regression_steps", "regression_steps"]


@torch.no_grad()
def regression_steps(
    log_density_fn: RegressingLogDensityFn,
    y0: Tensor,
    num_steps: int = 1,
    length: float = 1.0,
    decay: float = 0.5,
    return_trace: bool = False,
) -> RefinementResult:
    """Move points to where a regression says that the target is, unless f would fall.

    The rule is that of :func:`~.refinement.gradient_ascent` with the regression's step s in place
    of λ ∇f. Every point has its own η, at first ``length``. For each, ``num_steps`` times:

        y' = y + η s(y)
        f(y') ≥ f(y):   y ← y'
        otherwise:      η ← decay · η   (y stays; values that are not finite always fail)

    Hence f(y) never decreases, a point that no step moved keeps every bit of y0, and η = 0 moves
    none. An unguarded regression step is right on average; f refuses those that it knows to be
    wrong for this object.

    Cost: ``num_steps + 1`` evaluations of f and s together, none of them differentiated. The host
    reads no value from the device.

    Args:
        log_density_fn: f with the method ``regress``.
        y0: (N, D) starts, encoded coordinates; N may be 0. A start where f is not finite stays.
        num_steps: R, how often to try a step; 0 only evaluates f(y0).
        length: η at first; 1 trusts the regression, less keeps a share of the start.
        decay: factor on η after a failed step, in [0, 1].
        return_trace: also return every intermediate state.

    Returns:
        Detached tensors; see :class:`RefinementResult`.

    Raises:
        TypeError: the function has no ``regress``.
        ValueError: an argument is outside its range.
    """
    check_regression_steps(num_steps, length)
    if not isinstance(log_density_fn, RegressingLogDensityFn):
        raise TypeError(
            f"{type(log_density_fn).__name__} has no regression, from which first steps could "
            "come; train the energy head with regression=dict(), or set regression_steps=0"
        )
    y = y0.detach().to(at_least_float32(y0.dtype)).unsqueeze(1)
    f, step = _regress(log_density_fn, y)
    eta = torch.full_like(f, length).unsqueeze(-1)
    accepted = torch.zeros_like(f, dtype=torch.int64)
    states = [(y, f, accepted.bool())]
    for _ in range(num_steps):
        proposal = y + eta * step
        active = is_finite(f) & is_finite(proposal).all(-1) & (proposal != y).any(-1)
        query = proposal.where(active.unsqueeze(-1), y)
        value, following = _regress(log_density_fn, query)
        moved = active & (value >= f) & is_finite(value)
        wide = moved.unsqueeze(-1)
        y, step = query.where(wide, y), following.where(wide, step)
        f, eta = value.where(moved, f), eta.where(wide, decay * eta)
        accepted = accepted + moved
        states.append((y, f, moved))
    trace = None
    if return_trace:
        all_y, all_f, all_moved = (torch.stack(each).squeeze(2) for each in zip(*states))
        trace = RefinementTrace(all_y, all_f, all_moved[1:])
    return RefinementResult(y.squeeze(1), f.squeeze(1), accepted.squeeze(1), trace)


def _regress(log_density_fn: RegressingLogDensityFn, y: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate f (N, S), -inf where it is not finite, and s (N, S, D) at y (N, S, D)."""
    if y.numel() == 0:
        return y.new_zeros(y.shape[:-1]), torch.zeros_like(y)
    # f compares values whose differences half precision cannot resolve.
    with torch.autocast(y.device.type, enabled=False):
        f, step = log_density_fn.regress(y)
    f = f.to(y.dtype)
    return f.where(is_finite(f), -torch.inf), step.to(y.dtype)


def check_regression_steps(num_steps: int, length: float) -> None:
    """Check the settings of :func:`regression_steps`.

    Raises:
        ValueError: one is outside its range.
    """
    if num_steps < 0:
        raise ValueError(f"regression_steps={num_steps} must be 0 (none) or more.")
    if not 0 <= length < math.inf:
        raise ValueError(
            f"regression_length={length} must be finite and not negative; 1 goes where the "
            "regression says, 0.5 half of the way."
        )
