"""A climb of a fixed number of boxes as a list of launches on buffers that stay where they are.

A plan can be run launch by launch, or recorded once as a CUDA graph (``graphs.py``) and repeated:
both do the same. It reads nothing back, allocates nothing, and takes no decision on the host. This
one has the fused kernels; that of ``recorded_loop.py`` has the operations of the loop.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ebm_ops.prroi_pool.triton_into import grad_rois_into, pool_into

from ...energy.steps import LONGEST
from ..heads import EBMBBoxHead
from . import kernels
from .map_buffers import MapBuffers
from .products import Precision, multiply

__all__ = ["ClimbPlan", "Layout", "Recipe", "Weights"]


class Recipe(NamedTuple):
    """What the launches of a climb depend on, beside the head and the maps."""

    rows: int
    """N, of which some may be boxes without area."""
    num_steps: int
    decay: float
    accelerated: bool
    """Whether the steps are those of Barzilai and Borwein."""
    tolerance: float
    temperature: float
    """τ, factor on f; 1 without a prior."""
    precision: Precision

    def settings(self, head: EBMBBoxHead) -> Hashable:
        """What the launches depend on of a head, beside its weights."""
        return Layout.of(head)

    def plan(self, head: EBMBBoxHead, maps: MapBuffers, others: Iterable[Any]) -> ClimbPlan:
        """The launches; ``others`` are plans of the same weights, whose copies can be used."""
        for other in others:
            if isinstance(other, ClimbPlan) and other.recipe.precision == self.precision:
                return ClimbPlan(self, Layout.of(head), other.weights, maps)
        return ClimbPlan(self, Layout.of(head), Weights(head, self.precision), maps)


class Layout(NamedTuple):
    """How a head reads its maps."""

    bins: int
    """Bins per axis."""
    scales: tuple[float, ...]
    """Cells per pixel, of each level."""
    limits: tuple[float, ...]
    """Areas (px²): that of the smallest box beyond each level but the last."""
    shifts: tuple[float, ...]
    """Added to all sides of boxes, in pixels, of each level."""
    last_pixel: bool
    """Whether boxes are pooled without their last pixel at the right and at the bottom."""
    margin: float
    """By how much of a side the pooled region is wider, on each side of the box."""

    @classmethod
    def of(cls, head: EBMBBoxHead) -> Layout:
        """That of a head with one level, or with ``level_rule='assign'``."""
        limits = tuple(head._smallest_areas)
        scales = tuple(1 / stride for stride in head.strides)
        shifts, margin = head.pixel_shifts, 0.5 * (head.region_scale - 1)
        return cls(head.pool_sizes[0], scales, limits, shifts, head.legacy_plus_one, margin)


class Weights:
    """The head's weights as the products of a plan read them.

    Those in another order or precision than the head's own are written anew in each run, which
    costs as much as two passes over them, of twenty and more. So nobody has to tell a plan that
    weights have changed: to swap in an average of weights through ``.data``, as mmengine's
    ``EMAHook`` does, changes no version number.
    """

    def __init__(self, head: EBMBBoxHead, precision: Precision) -> None:
        dtype = torch.bfloat16 if precision == "bf16x2" else torch.float32
        first, second = head.trunk
        self._copies: list[tuple[Tensor, Tensor]] = []
        bins = head.pool_sizes[0] ** 2
        channels = first.in_features // bins
        # Bins before channels, as neighbouring threads pool neighbouring channels.
        weight = first.weight.detach().view(-1, channels, bins).mT
        self.first = self._in(dtype, weight).view(first.weight.shape)
        self.second = self._in(dtype, second.weight.detach())
        self.last = self._in(torch.float32, head.fc_energy.weight.detach())
        layers = (first, second, head.fc_energy)
        self.biases = [self._in(torch.float32, layer.bias.detach()) for layer in layers]

    def _in(self, dtype: torch.dtype, weight: Tensor) -> Tensor:
        if weight.dtype == dtype and weight.is_contiguous():
            return weight
        copy = torch.empty(weight.shape, dtype=dtype, device=weight.device)
        self._copies.append((copy, weight))
        return copy

    def refresh(self) -> None:
        """Write those that are copies."""
        for copy, weight in self._copies:
            copy.copy_(weight)


class ClimbPlan:
    """The launches of a climb; its inputs are loaded, it is run, and the result is read.

    Args:
        recipe: what is done.
        layout: how the head reads the maps.
        weights: of the head.
        maps: buffers of the maps.

    Attributes:
        inputs: (N, COLUMNS) float32, see ``kernels.py``.
        y: (N, 4) float32, the points that were reached.
        f: (N,) float32, their log-density, that of the posterior where there is a prior.
        accepted: (N,) int64, the number of steps that moved each.
    """

    def __init__(self, recipe: Recipe, layout: Layout, weights: Weights, maps: MapBuffers) -> None:
        self.recipe, self.layout, self.weights, self.maps = recipe, layout, weights, maps
        n, device = recipe.rows, weights.last.device
        self._halves = halves = 2 if recipe.precision == "bf16x2" else 1

        def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        bins, kind = layout.bins, weights.first.dtype
        hidden, features = weights.first.shape
        width = weights.second.shape[0]
        self.inputs = new(n, kernels.COLUMNS)
        self.y, self._origin, self._slope, self._size, self._proposal = (
            new(n, 4) for _ in range(5)
        )
        self.f = new(n)
        self.accepted, self._levels = new(n, dtype=torch.int64), new(n, dtype=torch.int64)
        self._active, self._sound, self._moved = (new(n, dtype=torch.int32) for _ in range(3))
        self._rois = new(n, 5)
        # The two sums of a product in halves are added before the next one reads them.
        self._pooled, self._partial = new(n, bins, bins, maps.channels[0]), new(n, bins**2, 5)
        self._x = new(halves * n, features, dtype=kind) if halves == 2 else self._pooled
        self._x = self._x.view(halves * n, features)
        self._first, self._hidden = new(halves * n, hidden), new(n, hidden)
        self._h = new(halves * n, hidden, dtype=kind) if halves == 2 else self._hidden
        self._second = new(halves * n, width)
        self._back = new(halves * n, width, dtype=kind)
        self._by_x = new(halves * n, features)
        self._by_pooled = torch.empty_like(self._pooled) if halves == 2 else self._by_x
        self._by_pooled = self._by_pooled.view(self._pooled.shape)

    def load(self, inputs: Tensor) -> None:
        """Take the inputs (n, COLUMNS) of up to N boxes; the others are boxes without area."""
        self.inputs[: len(inputs)].copy_(inputs)
        self.inputs[len(inputs) :].zero_()

    def run(self) -> None:
        """All launches, in order."""
        self.weights.refresh()
        self._advance(0)
        for step in range(self.recipe.num_steps + 1):
            self._evaluate(step)
            if step < self.recipe.num_steps:
                self._differentiate()
                self._advance(step + 1)

    def _evaluate(self, step: int) -> None:
        pool_into(self._pooled, self.maps.maps, self._rois, self._levels, self.layout.scales)
        if self._halves == 2:
            self._activate("copy", self._pooled, self._pooled, self._x, 1, 2)
        self._multiply(self._x, self.weights.first.t(), self._first)
        self._activate("relu", self._first, self._hidden, self._h, self._halves, self._halves)
        self._multiply(self._h, self.weights.second.t(), self._second)
        self._accept(step)

    def _differentiate(self) -> None:
        # `_h` and `_first` are free by now: they take the gradients to what they held.
        self._multiply(self._back, self.weights.second, self._first)
        by_h = self._h if self._halves == 2 else self._first
        self._activate("mask", self._first, self._hidden, by_h, self._halves, self._halves)
        self._multiply(by_h, self.weights.first, self._by_x)
        if self._halves == 2:
            self._activate("copy", self._by_x, self._by_x, self._by_pooled, 2, 1)
        maps, scales = self.maps.maps, self.layout.scales
        grad_rois_into(self._partial, self._by_pooled, maps, self._rois, self._levels, scales)

    def _multiply(self, x: Tensor, weight: Tensor, out: Tensor) -> None:
        multiply(x, weight, out, self.recipe.precision)

    def _advance(self, step: int) -> None:
        recipe, layout = self.recipe, self.layout
        bins = layout.bins**2
        with torch.cuda.device_of(self.y):
            kernels.advance[(recipe.rows,)](
                self.inputs, self._partial, self.y, self._origin, self._slope, self._size,
                self._active, self._sound, self._moved, self._proposal, self._rois, self._levels,
                layout.limits or (0.0,), layout.shifts, layout.margin, recipe.temperature,
                recipe.tolerance, LONGEST, bins, step == 0, recipe.accelerated and step > 1,
                recipe.tolerance > 0, len(layout.scales), layout.last_pixel,
                triton.next_power_of_2(bins), num_warps=1, enable_fp_fusion=True,
            )  # fmt: skip

    def _accept(self, step: int) -> None:
        recipe, weights = self.recipe, self.weights
        width = weights.second.shape[0]
        with torch.cuda.device_of(self.y):
            kernels.accept[(recipe.rows,)](
                self.inputs, self._second, weights.biases[1], weights.last, weights.biases[2],
                self._rois, self.y, self._origin, self.f, self._size, self._active, self._sound,
                self._moved, self._proposal, self.accepted, self._back, recipe.temperature,
                recipe.decay, recipe.rows, width, step == 0, recipe.accelerated, self._halves,
                min(triton.next_power_of_2(width), 1024), num_warps=1, enable_fp_fusion=True,
            )  # fmt: skip

    def _activate(
        self, action: str, x: Tensor, hidden: Tensor, out: Tensor, halves: int, out_halves: int
    ) -> None:
        count, width, block = out.numel() // out_halves, hidden.shape[-1], 1024
        bias = self.weights.biases[0]
        with torch.cuda.device_of(x):
            kernels.activate[(triton.cdiv(count, block),)](
                x, bias, hidden, out, count, width, action, halves, out_halves, block,
                num_warps=4, enable_fp_fusion=True,
            )  # fmt: skip
