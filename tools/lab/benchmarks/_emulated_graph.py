"""What a climb as one CUDA graph computes, without a graph and on any device."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ebm_mmdet.energy import LogDensityFn, RefinementResult
from ebm_mmdet.energy.priors import LogPosterior
from ebm_mmdet.models import EnergyHead, GradientAscentRefiner
from ebm_mmdet.models.fused_climb.climb import repeated_climb
from ebm_mmdet.models.fused_climb.graphs import Graphs
from ebm_mmdet.models.fused_climb.products import Precision, multiply
from ebm_mmdet.models.fused_climb.suitability import split_prior, why_not_recorded

__all__ = ["fixed_climb", "rounded_climb", "rounded_log_density"]


def fixed_climb(refiner: GradientAscentRefiner) -> GradientAscentRefiner:
    """A copy of a refiner that climbs in float32 as the graph with the operations of the loop does.

    The number of boxes is filled up, maps lie in larger buffers, and no box is left out on the way.
    """
    changed, kept = copy.copy(refiner), WeakKeyDictionary()

    def climb(log_density_fn: LogDensityFn, y0: Tensor, step_size: Any) -> RefinementResult:
        reason = why_not_recorded(log_density_fn, y0)
        if reason is not None:
            raise ValueError(f"this climb cannot be recorded: {reason}")
        head = split_prior(log_density_fn)[0].head
        graphs = kept.setdefault(head, Graphs(make=lambda plan: plan.run))
        settings = (refiner.num_steps, refiner.decay, refiner.acceleration, refiner.tolerance)
        found = repeated_climb(graphs, log_density_fn, y0, step_size, *settings, fused=False)
        if found is None:
            raise RuntimeError(graphs.failure)
        return found

    changed.climb = climb
    return changed


def rounded_climb(refiner: GradientAscentRefiner, precision: Precision) -> GradientAscentRefiner:
    """A copy of a refiner that climbs the f of :func:`rounded_log_density`, by the loop.

    First steps by regression, and the check of the result with a prior, are in float32 as they are
    with the graph.
    """
    changed = copy.copy(refiner)

    def climb(log_density_fn: LogDensityFn, *arguments: Any) -> RefinementResult:
        return refiner.climb(rounded_log_density(log_density_fn, precision), *arguments)

    changed.climb = climb
    return changed


def rounded_log_density(log_density_fn: LogDensityFn, precision: Precision) -> LogDensityFn:
    """F as a graph computes it: trunk and its gradient in products of a precision, rounded maps.

    Args:
        log_density_fn: that of an energy head, with a prior or without.
        precision: see `ebm_mmdet.models.fused_climb.products`.
    """
    if isinstance(log_density_fn, LogPosterior):
        likelihood = rounded_log_density(log_density_fn.likelihood, precision)
        return dataclasses.replace(log_density_fn, likelihood=likelihood)
    fn = copy.copy(log_density_fn)
    with torch.inference_mode(False):  # whose tensors autograd cannot keep
        fn.head = _rounded_head(fn.head, precision)
        if precision == "bf16x2":
            fn.feats = [feat.bfloat16().float() for feat in fn.feats]
    return fn


def _rounded_head(head: EnergyHead, precision: Precision) -> EnergyHead:
    """A view of a head with another trunk; everything else is shared."""
    view = copy.copy(head)
    trunk = nn.ModuleList(RoundedLinear(layer, precision) for layer in head.trunk)
    # A shallow copy would share the table of children.
    view.__dict__["_modules"] = {**head._modules, "trunk": trunk}
    return view


class RoundedLinear(nn.Module):
    """A linear layer with products of a precision, to its output and in the gradient to its input.

    Its weights have no gradient.
    """

    def __init__(self, layer: nn.Linear, precision: Precision) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight.detach().float(), layer.bias.detach().float()
        self.precision = precision

    def forward(self, x: Tensor) -> Tensor:
        """(R, in_features) float32 -> (R, out_features) float32."""
        return _Product.apply(x, self.weight, self.precision) + self.bias


class _Product(torch.autograd.Function):
    """X Wᵀ, and the gradient g W to x, in a precision."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, precision: Precision) -> Tensor:
        ctx.weight, ctx.precision = weight, precision
        return _product(x, weight.t(), precision)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _product(gradient, ctx.weight, ctx.precision), None, None


def _product(x: Tensor, weight: Tensor, precision: Precision) -> Tensor:
    """X (R, K) times a weight (K, M): (R, M), all float32."""
    halves = 1
    if precision == "bf16x2":  # as `activate` and `accept` in `fused_climb/kernels.py` write it
        high = x.bfloat16()
        x, halves = torch.cat([high, (x - high.float()).bfloat16()]), 2
        weight = weight.bfloat16()
    out = torch.empty(len(x), weight.shape[1], device=x.device)
    multiply(x, weight, out, precision)
    return out.unflatten(0, (halves, -1)).sum(0) if halves == 2 else out
