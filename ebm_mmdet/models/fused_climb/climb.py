"""A climb as one CUDA graph, for log-densities and devices for which there is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from ...energy import LogDensityFn, RefinementResult
from ...energy.priors import LogPosterior
from ...energy.steps import Acceleration, Steps
from ..heads import BoxLogDensity
from .products import Precision
from .suitability import say_once, split_prior, why_not_here, why_not_this

__all__ = ["climb_inputs", "fused_climb"]


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
) -> RefinementResult | None:
    """:func:`~ebm_mmdet.energy.gradient_ascent` as one CUDA graph, or None where it has to be used.

    In float32 the results differ from those of the loop by rounding (1e-5 of a box), and have the
    same bits in every run. The first call for a number of boxes (16, 32, ..., 512), of steps, and
    so on, compiles the kernels and records the graph.

    Each reason to use the loop is logged once: the device, a prior with a covariance, a trunk or
    head of another kind or in train mode, more than 512 boxes, gradients, a trace, a caller who
    records a graph.

    Args:
        log_density_fn: that of an ``EBMBBoxHead``, with a Gaussian prior of independent coordinates
            or without one.
        y0: (N, 4) starts, or (N, S, 4) several for each box, encoded coordinates.
        step_size, num_steps, decay, acceleration, tolerance, return_trace: as for the loop.
        precision: of the products, see ``products.py``.

    Raises:
        ValueError: a step size is out of range, or its shape does not fit.
    """
    if not y0.numel():
        return None
    reason = "a trace is asked for" if return_trace else None
    reason = reason or why_not_here(y0.device, precision) or why_not_this(log_density_fn, y0)
    if reason is not None:
        say_once(reason)
        return None
    from .graphs import BUCKETS, graphs_of  # needs Triton
    from .plan import Recipe

    fn, posterior = split_prior(log_density_fn)
    fn = cast(BoxLogDensity, fn)
    autocast = torch.autocast(y0.device.type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), autocast:
        inputs = climb_inputs(fn, posterior, y0, Steps(step_size, _points(y0), decay).size)
        recipe = Recipe(
            next(count for count in BUCKETS if count >= len(inputs)),
            num_steps,
            float(decay),
            acceleration is not None,
            float(tolerance),
            1.0 if posterior is None else float(posterior.tau),
            precision,
        )
        graphs = graphs_of(fn.head, y0.device)
        found = graphs.climb(fn.head, recipe, fn.feats, inputs)
    if found is None:
        say_once(f"it could not be recorded ({graphs.failure})")
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


def _points(y0: Tensor) -> Tensor:
    return y0.detach() if y0.dim() == 3 else y0.detach().unsqueeze(1)
