"""A climb of a fixed number of boxes with the operations of the loop, for heads of any kind.

What is recorded is :func:`~ebm_mmdet.energy.gradient_ascent` itself, with autograd: as many
operations as without a graph, but they are queued at once. In 3D this is all that there is; in 2D
it serves what the fused kernels (``plan.py``) do not compute.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ...energy import LogDensityFn, gradient_ascent
from ...energy.host_reads import without_reads
from ...energy.priors import LogPosterior
from ...energy.steps import Acceleration
from ..heads import BoxLogDensity, EnergyHead
from .map_buffers import MapBuffers
from .products import Precision

__all__ = ["LoopPlan", "LoopRecipe", "loop_inputs"]


class LoopRecipe(NamedTuple):
    """What the operations of a climb depend on, beside the head and the maps."""

    rows: int
    """N, of which some may be boxes without a size."""
    dim: int
    """D, encoded coordinates of a box."""
    num_steps: int
    decay: float
    acceleration: Acceleration | None
    tolerance: float
    prior: Literal["none", "independent", "covariance"]
    temperature: float
    """τ, factor on f; 1 without a prior."""
    precision: Precision

    @property
    def widths(self) -> list[int]:
        """Columns of the inputs: reference, start, λ, image, label; then mean and std or L."""
        d = self.dim
        prior = {"none": [], "independent": [d, d], "covariance": [d, d * d]}[self.prior]
        return [d, d, d, 1, 1, *prior]

    def settings(self, head: EnergyHead) -> Hashable:
        """Numbers and names in the head, on any of which its Python may decide."""
        return tuple(_plain_attributes(head))

    def plan(self, head: EnergyHead, maps: MapBuffers, others: Iterable[Any]) -> LoopPlan:
        """The climb of this head."""
        return LoopPlan(self, head, maps)


class LoopPlan:
    """A climb whose inputs are loaded; it is run, and the result is read.

    Args:
        recipe: what is done.
        head: any that can be recorded, see ``suitability.py``. It is not kept.
        maps: buffers of the maps.

    Attributes:
        inputs: (N, columns) float32, see :func:`loop_inputs`.
        y, f, accepted: the result, see ``graphs.Plan``.
    """

    def __init__(self, recipe: LoopRecipe, head: EnergyHead, maps: MapBuffers) -> None:
        self.recipe, self.maps, self._head = recipe, maps, weakref.ref(head)
        n, device = recipe.rows, maps.flat.device
        self.inputs = torch.zeros(n, sum(recipe.widths), device=device)
        self.y, self.f = torch.zeros(n, recipe.dim, device=device), torch.zeros(n, device=device)
        self.accepted = torch.zeros(n, dtype=torch.int64, device=device)
        # The rows of no box: no size, no step, and a prior that is one.
        self._nothing = torch.zeros(sum(recipe.widths), device=device)
        if recipe.prior != "none":
            std = self._nothing.split(recipe.widths)[-1]
            # Every entry of the diagonal: D + 1 apart in a matrix, all of a vector.
            std[:: recipe.dim + 1 if recipe.prior == "covariance" else 1] = 1

    def load(self, inputs: Tensor) -> None:
        """Take the inputs of up to N boxes."""
        self.inputs[: len(inputs)].copy_(inputs)
        self.inputs[len(inputs) :].copy_(self._nothing.expand_as(self.inputs[len(inputs) :]))

    def run(self) -> None:
        """All operations, in order."""
        recipe, head = self.recipe, self._head()
        assert head is not None  # the caller has it
        reference, start, size, image, label, *prior = self.inputs.split(recipe.widths, 1)
        indices = (each.flatten().long() for each in (image, label))
        fn: LogDensityFn = BoxLogDensity(head, self.maps.maps, reference, *indices)
        if prior:
            mean, std = prior
            std = std.unflatten(1, (recipe.dim, -1)) if recipe.prior == "covariance" else std
            fn = LogPosterior(fn, mean, std, recipe.temperature)
        with without_reads(for_this_machine=True):
            found = gradient_ascent(
                fn,
                start,
                size,
                recipe.num_steps,
                recipe.decay,
                acceleration=recipe.acceleration,
                tolerance=recipe.tolerance,
                validate=False,
            )
        self.y.copy_(found.y)
        self.f.copy_(found.log_density)
        self.accepted.copy_(found.accepted)


def loop_inputs(
    fn: BoxLogDensity, posterior: LogPosterior | None, points: Tensor, size: Tensor
) -> Tensor:
    """Everything that differs from box to box, (N S, columns) float32 in the order of the recipe.

    Args:
        fn: f of N boxes.
        posterior: f with a prior, or None.
        points: (N, S, D) starts.
        size: (N, S, D) step sizes.
    """
    labels = torch.zeros_like(fn.labels) if fn.head.class_agnostic else fn.labels
    columns = [
        fn.reference.unsqueeze(1), points, size, fn.batch_index.view(-1, 1, 1),
        labels.view(-1, 1, 1),
    ]  # fmt: skip
    if posterior is not None:
        mean, std = posterior.mean, posterior.std
        # (D,), or one of each target, which all of its points share.
        columns += [mean.unsqueeze(-2), (std.flatten(1) if std.dim() == 3 else std).unsqueeze(-2)]
    shape = points.shape[:-1]
    rows = [each.to(points.dtype).expand(*shape, each.shape[-1]) for each in columns]
    return torch.cat(rows, -1).flatten(0, 1)


def _plain_attributes(head: nn.Module) -> Iterator[tuple[Any, ...]]:
    """Type and plain values of every module of a head; what else there is are tensors and parts."""
    plain = (bool, int, float, str, tuple, list, torch.dtype, type(None))
    for name, module in head.named_modules():
        own = vars(module).items()
        yield name, type(module), *((k, repr(v)) for k, v in own if isinstance(v, plain))
