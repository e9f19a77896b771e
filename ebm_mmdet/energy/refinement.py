"""Prediction by gradient ascent on the log-density, from a first estimate."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .contracts import (
    LogDensityFn,
    RefinementResult,
    RefinementTrace,
    SelectableLogDensityFn,
)
from .derivatives import differentiable, gradient
from .host_reads import pays_to_read
from .log_density import at_least_float32, evaluate, evaluate_finite, is_finite
from .steps import Acceleration, Steps, check_climb

__all__ = ["evaluate_only", "gradient_ascent"]


def evaluate_only(
    log_density_fn: LogDensityFn,
    y0: Tensor,
    *,
    covariance: Tensor | None = None,
    num_per_image: Sequence[int] | None = None,
) -> RefinementResult:
    """The refiner that does not move y0 (N, D): returns it and f at y0, for comparisons.

    Arguments are those of every :class:`Refiner`; the optional ones are not read.
    """
    y = y0.detach().to(at_least_float32(y0.dtype))
    f = evaluate_finite(log_density_fn, y.unsqueeze(1)).squeeze(1)
    return RefinementResult(y, f, torch.zeros_like(f, dtype=torch.int64))


def gradient_ascent(
    log_density_fn: LogDensityFn,
    y0: Tensor,
    step_size: float | Sequence[float] | Tensor,
    num_steps: int,
    decay: float = 0.5,
    project: Callable[[Tensor], Tensor] | None = None,
    return_trace: bool = False,
    acceleration: Acceleration | None = None,
    tolerance: float = 0.0,
    validate: bool = True,
) -> RefinementResult:
    """Climb f from y0 by gradient steps that shrink when they fail.

    Every point has its own vector λ of step sizes. For each, independently, ``num_steps`` times:

        y' = project(y + λ ⊙ ∇f(y))
        f(y') ≥ f(y):   y ← y'          (a tie is accepted)
        otherwise:      λ ← decay · λ   (y and its gradient stay; NaN and ±inf always fail)

    Hence f(y) never decreases, and a point that no step moved keeps every bit of y0. Points do not
    influence each other: batch composition and order change a result only as far as they change f.

    Cost: ``num_steps + 1`` evaluations of f and at most ``num_steps`` backward passes, because the
    evaluation that accepts a step is the starting point of the next. Backward passes go to y only:
    no ``.grad`` of any parameter is touched and no gradient of weights is computed. If the function
    offers ``select``, later evaluations leave out targets of which no point can move any more (y'
    equals y, or the gradient is not finite). The climb ends when no target is left. On a GPU none
    of this is done for up to 512 points, where it saves nothing: the host then reads no value
    during the climb, and all steps are queued without waiting for the device. For more points it
    is done in steps 16, 32, 64 and so on, with a ``tolerance`` in steps 4 and 8 too; each of these
    waits for the device once.

    ``acceleration='bb'`` needs fewer evaluations to reach the top. After the first step, each has
    the length of Barzilai and Borwein, which would reach the top of f along the last move
    (:func:`~.steps.barzilai_borwein`). It learns the curvature of f from the gradients of the
    climb, and is safe by the same test: f(y) never decreases. It is for climbs that are to
    converge, as with a prior; short steps without one end on the way to the top, elsewhere.

    Works in any mode of the caller, including ``no_grad``, ``inference_mode`` and autocast: f is
    evaluated with gradients on and with inference mode and autocast off, because a climb compares
    differences of f that half precision cannot resolve. :class:`LogDensityFn` describes what
    this requires of the function.

    Source: Gustafsson et al., "Energy-Based Models for Deep Probabilistic Regression", ECCV 2020
    (arXiv:1909.12297), Algorithm 1; the published form evaluates f twice per step, shrinks λ in the
    same way, and does not guard against NaN.

    Args:
        log_density_fn: f; entry (n, s) must depend on point (n, s) only.
        y0: (N, D) one start per target, or (N, S, D) several; encoded coordinates. A start where f
            is not finite counts as f = -inf: it moves only if its gradient is finite. A start that
            is itself not finite stays.
        step_size: λ, a number, (D,), or (N, D); not negative. For boxes the papers use
            (8e-4, 8e-4, 3.2e-3, 3.2e-3) with NCE+.
        num_steps: T; 0 only evaluates f(y0).
        decay: factor on λ after a failed step, in [0, 1].
        project: maps a proposal (N, S, D) to an admissible point, for coordinates that wrap around
            or have a floor. It is not applied to y0.
        return_trace: also return every intermediate state.
        acceleration: None or ``'bb'``.
        tolerance: a point stops where its next step promises a gain of f, ``Σ (y' - y) ⊙ ∇f(y)``,
            below this (in nats). 0: never.
        validate: check the values of ``step_size``, for which the host waits if they are on a GPU;
            False if the caller has checked them.

    Returns:
        Detached tensors on the device of ``y0``; see :class:`RefinementResult`.

    Raises:
        ValueError: an argument is outside the range or shape given above.
        RuntimeError: the returned f has no gradient with respect to y.
    """
    if y0.dim() not in (2, 3):
        raise ValueError(
            f"y0 has shape {tuple(y0.shape)}; expected (N, D), or (N, S, D) for several starts."
        )
    check_climb(num_steps, decay, acceleration, tolerance)
    with differentiable(y0):
        # A copy made here is an ordinary tensor even if y0 was made in inference mode.
        y = y0.detach().to(at_least_float32(y0.dtype), copy=True)
        y = y if y.dim() == 3 else y.unsqueeze(1)
        steps = Steps(step_size, y, decay, acceleration, validate)
        states: list[tuple[Tensor, Tensor, Tensor]] = []
        accepted = y.new_zeros(y.shape[:-1], dtype=torch.int64)
        for state in _climb(log_density_fn, y, steps, num_steps, project, tolerance):
            accepted += state[-1]
            if not return_trace:
                states.clear()
            states.append(state)

        shape = y0.shape[:-1]
        y, log_density, _ = states[-1]
        trace = None
        if return_trace:
            all_y, all_log_density, all_moved = (torch.stack(values) for values in zip(*states))
            trace = RefinementTrace(
                all_y.view(len(states), *y0.shape),
                all_log_density.view(len(states), *shape),
                all_moved[1:].view(num_steps, *shape),
            )
        return RefinementResult(
            y.view(y0.shape), log_density.view(shape), accepted.view(shape), trace
        )


def _climb(
    log_density_fn: LogDensityFn,
    y: Tensor,
    steps: Steps,
    num_steps: int,
    project: Callable[[Tensor], Tensor] | None,
    tolerance: float,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield y (N, S, D), f (N, S) and which points moved (N, S): at the start and after each step.

    Only the evaluation of f is narrowed to the targets that are still live; all other arithmetic
    runs on all targets, which costs little and cannot depend on which of them are still climbing.
    """
    narrows = pays_to_read(y.device, y.shape[0] * y.shape[1])
    reads_are_free = pays_to_read(y.device, 0)
    live: Tensor | slice = slice(None)
    num_live, live_fn = len(y), log_density_fn
    f, gradient = _value_and_slope(live_fn, y)
    f = f.where(is_finite(f), -torch.inf)
    yield y, f, torch.zeros_like(f, dtype=torch.bool)

    slope = torch.zeros_like(y)
    active = is_finite(y).all(-1)
    needs_slope = active
    for step in range(1, num_steps + 1):
        if not reads_are_free or needs_slope.any():
            mask = needs_slope[live]
            slope[live] = gradient(mask).where(mask.unsqueeze(-1), slope[live])
        proposal = y + steps.next(y, slope)
        if project is not None:
            proposal = project(proposal)

        # A proposal equal to y would be accepted as a tie, and proposed again, in every step.
        active = active & is_finite(slope).all(-1) & (proposal != y).any(-1)
        if tolerance > 0:
            active = active & (((proposal - y) * slope).sum(-1) >= tolerance)
        sound = active & is_finite(proposal).all(-1)
        if narrows and (reads_are_free or _pays_to_look(step, tolerance)):
            remaining = active.any(1).nonzero().squeeze(1)
            if not len(remaining):
                yield from itertools.repeat((y, f, active), num_steps - step + 1)
                return
            if len(remaining) < num_live and isinstance(log_density_fn, SelectableLogDensityFn):
                live, num_live = remaining, len(remaining)
                live_fn = log_density_fn.select(remaining)
        query = proposal.where(sound.unsqueeze(-1), y)
        value = f.clone()
        value[live], gradient = _value_and_slope(live_fn, query[live])
        moved = sound & is_finite(value) & (value >= f)
        steps.learn(moved, y, slope)
        y = proposal.where(moved.unsqueeze(-1), y)
        f = value.where(moved, f)
        needs_slope = moved
        yield y, f, moved


def _pays_to_look(step: int, tolerance: float) -> bool:
    """Whether to wait in this step (from 1) for a GPU, to see which targets are still live.

    Without a tolerance, a target seldom leaves before its steps have shrunk to the last bit of y.
    From the first look on, at most half of the steps of a target are in vain.
    """
    return step >= (4 if tolerance > 0 else 16) and step & (step - 1) == 0


def _value_and_slope(
    log_density_fn: LogDensityFn, y: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Evaluate f at y (n, S, D); return it detached, and a function that differentiates it once.

    ``gradient(mask (n, S))`` is ∇f(y) (n, S, D) where the mask is set.
    """
    if y.numel() == 0:
        return y.new_zeros(y.shape[:-1]), lambda mask: torch.zeros_like(y)
    y = y.detach().requires_grad_()
    f = evaluate(log_density_fn, y)

    return f.detach(), lambda mask: gradient(f, y, mask.to(f.dtype))
