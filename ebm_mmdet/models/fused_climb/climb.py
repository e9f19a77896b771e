"""A climb as one CUDA graph, for log-densities and devices for which there is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor

from ...energy import LogDensityFn, RefinementResult
from ...energy.priors import LogPosterior
from ...energy.steps import Acceleration, Steps
from ..heads import BoxLogDensity
from . import graphs as recordings
from .products import Precision
from .recorded_loop import LoopRecipe, loop_inputs
from .suitability import (
    say_not_fused_once,
    say_once,
    split_prior,
    why_not_fused,
    why_not_here,
    why_not_recorded,
)

__all__ = ["climb_inputs", "fused_climb", "repeated_climb"]


def fused_climb(
    log_density_fn: LogDensityFn,
    y0: Tensor,
    step_size: float | Sequence[float] | Tensor,
    num_steps: int,
    decay: float,
    acceleration: Acceleration | None = None,
    tolerance: float = 0.0,
    return_trace: bool = False,
    precision: Precision = "fp32",
    validate: bool = True,
) -> RefinementResult | None:
    """:func:`~ebm_mmdet.energy.gradient_ascent` as one CUDA graph, or None where it has to be used.

    In float32 the results differ from those of the loop by rounding (1e-5 of a box), and have the
    same bits in every run. The first call for a number of boxes (16, 32, ..., 512), of steps, and
    so on, compiles the kernels and records the graph.

    Functions that the fused kernels do not compute (in 3D, other trunks, a prior with a covariance)
    have a graph of the operations of the loop, and the log says why, once.

    Each reason to use the loop is logged once: the device, a head in train mode or with hooks or
    with a ``pool`` of its own, more than 512 boxes, gradients, a trace, a caller who records a
    graph.

    Args:
        log_density_fn: that of an energy head alone, with a Gaussian prior or without one.
        y0: (N, D) starts, or (N, S, D) several for each box, encoded coordinates.
        step_size, num_steps, decay, acceleration, tolerance, return_trace, validate: as for the
            loop.
        precision: of the products, see ``products.py``.

    Raises:
        ValueError: a step size is out of range, or its shape does not fit.
    """
    if not y0.numel():
        return None
    reason = "a trace is asked for" if return_trace else None
    reason = reason or why_not_here(y0.device, precision) or why_not_recorded(log_density_fn, y0)
    not_fused = why_not_fused(log_density_fn) if reason is None else None
    if not_fused and precision == "bf16x2":
        reason = f"precision='bf16x2' is for the fused kernels, and {not_fused}"
    if reason is not None:
        say_once(reason)
        return None
    if not_fused:
        say_not_fused_once(not_fused)
    graphs = recordings.graphs_of(split_prior(log_density_fn)[0].head, y0.device)
    result = repeated_climb(
        graphs,
        log_density_fn,
        y0,
        step_size,
        num_steps,
        decay,
        acceleration,
        tolerance,
        precision,
        validate,
        fused=not not_fused,
    )
    if result is None:
        say_once(f"it could not be recorded ({graphs.failure})")
    return result


def repeated_climb(
    graphs: recordings.Graphs,
    log_density_fn: LogDensityFn,
    y0: Tensor,
    step_size: float | Sequence[float] | Tensor,
    num_steps: int,
    decay: float,
    acceleration: Acceleration | None = None,
    tolerance: float = 0.0,
    precision: Precision = "fp32",
    validate: bool = True,
    *,
    fused: bool,
) -> RefinementResult | None:
    """The climb as it is recorded by ``graphs``, or None where that failed.

    Args:
        graphs: of the head. With other than the usual ones, the same may run on a CPU.
        log_density_fn, y0, step_size, num_steps, decay, acceleration, tolerance, precision,
            validate: as for :func:`fused_climb`; there must be no reason to use the loop.
        fused: whether with the fused kernels, instead of the operations of the loop.
    """
    fn, posterior = split_prior(log_density_fn)
    fn = cast(BoxLogDensity, fn)
    autocast = torch.autocast(y0.device.type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), autocast:
        points = _points(y0)
        size = Steps(step_size, points, decay, validate=validate).size
        rows = next(n for n in recordings.BUCKETS if n >= points[..., 0].numel())
        tau = 1.0 if posterior is None else float(posterior.tau)
        settings = num_steps, float(decay)
        if fused:
            from .plan import Recipe  # needs Triton

            bb = acceleration is not None
            recipe = Recipe(rows, *settings, bb, float(tolerance), tau, precision)
            inputs = climb_inputs(fn, posterior, y0, size)
        else:
            kind, dim = _kind(posterior), y0.shape[-1]
            recipe = LoopRecipe(
                rows, dim, *settings, acceleration, float(tolerance), kind, tau, precision
            )
            inputs = loop_inputs(fn, posterior, points, size)
        found = graphs.climb(fn.head, recipe, fn.feats, inputs)
    if found is None:
        return None
    y, f, accepted = found
    shape = y0.shape[:-1]
    return RefinementResult(y.view(y0.shape), f.view(shape), accepted.view(shape))


def climb_inputs(
    fn: BoxLogDensity, posterior: LogPosterior | None, y0: Tensor, size: Tensor
) -> Tensor:
    """Everything that differs from box to box, (N S, COLUMNS) float32 in the order of kernels.py.

    Args:
        fn: f of N boxes.
        posterior: f with a prior of independent coordinates, or None.
        y0: (N, 4) or (N, S, 4).
        size: (N, S, 4) step sizes.
    """
    points = _points(y0)
    if posterior is None:
        mean = inverse = torch.zeros_like(points)
        log_norm = torch.zeros_like(points[..., :1])
    else:
        mean, std = (p.unsqueeze(1) if p.dim() == 2 else p for p in (posterior.mean, posterior.std))
        inverse = 1 / std
        log_norm = (std.log() + 0.5 * math.log(2 * math.pi)).sum(-1, keepdim=True)
    labels = torch.zeros_like(fn.labels) if fn.head.class_agnostic else fn.labels
    columns = [
        fn.reference.unsqueeze(1), points, size, mean, inverse, log_norm,
        fn.batch_index.view(-1, 1, 1), labels.view(-1, 1, 1),
    ]  # fmt: skip
    shape = points.shape[:-1]
    return torch.cat([x.to(y0.dtype).expand(*shape, x.shape[-1]) for x in columns], -1).flatten(
        0, 1
    )


def _kind(posterior: LogPosterior | None) -> Literal["none", "independent", "covariance"]:
    if posterior is None:
        return "none"
    return "covariance" if posterior.std.dim() == 3 else "independent"


def _points(y0: Tensor) -> Tensor:
    return y0.detach() if y0.dim() == 3 else y0.detach().unsqueeze(1)
