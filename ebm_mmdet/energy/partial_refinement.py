"""Refinement of some of the targets; the others stay where they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .contracts import LogDensityFn, RefinementResult, Refiner, SelectableLogDensityFn
from .host_reads import records_graph
from .refinement import evaluate_only

__all__ = ["RefineChosen"]


class RefineChosen:
    """A refiner that gives the chosen targets to another one and evaluates f at the others.

    ``result.y[~chosen] == y0[~chosen]`` bit for bit, with 0 accepted steps; the result for the
    chosen targets is that of the other refiner for them alone. Of several modes, a target that is
    left out has one, ``y0``, of unknown mass.

    Args:
        refiner: the other refiner. It must not sample, because a target that it does not get would
            have no covariance.
        chosen: (N,) bool.
    """

    def __init__(self, refiner: Refiner, chosen: Tensor) -> None:
        self.refiner, self.chosen = refiner, chosen

    def __call__(
        self,
        log_density_fn: LogDensityFn,
        y0: Tensor,
        *,
        covariance: Tensor | None = None,
        num_per_image: Sequence[int] | None = None,
    ) -> RefinementResult:
        """See :class:`~ebm_mmdet.energy.Refiner`.

        Raises:
            TypeError: the log-density has no ``select``.
            ValueError: the other refiner samples.
        """
        if not isinstance(log_density_fn, SelectableLogDensityFn):
            raise TypeError(
                f"{type(log_density_fn).__name__} has no select, with which f is narrowed to the "
                "chosen targets"
            )
        if records_graph():
            return self._of_all(log_density_fn, y0, covariance, num_per_image)
        # Read once, as a whole: the host makes indices and counts of it without a further wait.
        chosen = self.chosen.cpu()
        on_host = [torch.nonzero(part).squeeze(1) for part in (chosen, ~chosen)]
        counts = None
        if num_per_image is not None:
            counts = [int(part.sum()) for part in chosen.split(list(num_per_image))]
        order, inside, outside = (
            index.to(y0.device, non_blocking=True)
            for index in (torch.argsort(torch.cat(on_host)), *on_host)
        )
        moved = self.refiner(
            log_density_fn.select(inside),
            y0[inside],
            covariance=None if covariance is None else covariance[inside],
            num_per_image=counts,
        )
        self._check(moved)
        still = evaluate_only(log_density_fn.select(outside), y0[outside])
        joined = zip(moved[:3], still[:3])
        result = RefinementResult(*(torch.cat([a, b.to(a.dtype)])[order] for a, b in joined))
        if moved.modes is None or moved.mode_mass is None:
            return result
        unknown = moved.modes.new_full((len(outside), *moved.modes.shape[1:]), torch.nan)
        unknown[:, 0] = still.y
        modes = torch.cat([moved.modes, unknown])
        mass = moved.mode_mass
        mass = torch.cat([mass, mass.new_full((len(outside), mass.shape[1]), torch.nan)])
        return result._replace(modes=modes[order], mode_mass=mass[order])

    def _of_all(
        self,
        log_density_fn: LogDensityFn,
        y0: Tensor,
        covariance: Tensor | None,
        num_per_image: Sequence[int] | None,
    ) -> RefinementResult:
        """The same in shapes that do not depend on the choice: all are refined, for a graph."""
        moved = self.refiner(log_density_fn, y0, covariance=covariance, num_per_image=num_per_image)
        self._check(moved)
        still = evaluate_only(log_density_fn, y0)
        left = ~self.chosen
        if moved.modes is not None and moved.mode_mass is not None:
            modes = moved.modes.masked_fill(left[:, None, None], torch.nan)
            first = torch.where(left[:, None], still.y, modes[:, 0])
            moved = moved._replace(
                modes=torch.cat([first.unsqueeze(1), modes[:, 1:]], 1),
                mode_mass=moved.mode_mass.masked_fill(left[:, None], torch.nan),
            )
        return moved._replace(
            y=torch.where(left[:, None], still.y, moved.y),
            log_density=torch.where(left, still.log_density, moved.log_density),
            accepted=moved.accepted.masked_fill(left, 0),
            trace=None,
        )

    def _check(self, moved: RefinementResult) -> None:
        if moved.covariance is not None:
            raise ValueError(
                f"{type(self.refiner).__name__} samples, and a target that is left out would have "
                "no covariance; refine all of them (min_score=0), or use GradientAscentRefiner"
            )
