"""Maximum likelihood with samples of the model from Langevin chains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..contracts import LogDensityFn
from ..langevin import check_langevin, langevin
from ..log_density import at_least_float32, evaluate
from ..losses import mcmc_loss
from ..old_names import refuse
from ..reduction import Weighting
from .settings import numbers

__all__ = ["MCMCObjective"]


@refuse("step", lambda value: f"step={value} is called step_size now; give step_size={value}.")
@dataclass(frozen=True)
class MCMCObjective:
    """Maximum likelihood with short Langevin chains that start at the target (ML-MCMC-L).

        y_m^(0) = y*,   y ← y + λ²/2 ∇f(y) + λ ξ,   L times
        loss = mean_m f(y_m^(L)) - f(y*) + w mean_m (f(y_m^(L))² + f(y*)²),   chains constant

    The step has to suit the density: chains diverge for λ beyond twice its standard deviation, and
    they hardly leave y* if λ² L is far below its variance (``chain_distance`` shows it).

    If features nearly determine the target, as those of an image determine a box, nothing bounds
    the sharpness of f: the noise of the last step alone moves every chain away from the target, f
    becomes sharper until chains overshoot, and the loss decreases for ever while f becomes useless.
    The penalty w keeps f, and with it the sharpness, of order 1 / w. It also fixes the constant
    that could be added to f.

    A chain that diverges, or at whose end f is not finite, is left out of the mean; a target that
    has lost all its chains contributes nothing.

    Source: Gustafsson et al., "How to Train Your Energy-Based Model for Regression", BMVC 2020
    (arXiv:2005.01698), ML-MCMC; penalty: Du and Mordatch, NeurIPS 2019.

    Raises:
        ValueError: λ is not positive and finite, there is no chain or no step, the clip is not
            positive, or the weight is negative.
    """

    step_size: float | Sequence[float]
    """λ in encoded coordinates, a number or D of them; a coordinate with 0 does not change."""
    num_steps: int = 16
    """L."""
    num_samples: int = 128
    """M, chains per target; the target itself is scored too, as their common start."""
    grad_clip: float | None = None
    """Longest allowed ‖∇f‖₂ while sampling; no limit as published."""
    magnitude_weight: float = 0.0
    """w, not negative; 0 as published."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "step_size", numbers("step_size", self.step_size, allow_zero=True))
        check_langevin(self.num_steps, self.grad_clip)
        if self.num_steps < 1 or self.num_samples < 1:
            raise ValueError(
                f"num_steps={self.num_steps} and num_samples={self.num_samples} must be 1 or more; "
                "a chain without a step stays at the target, and f learns nothing from it."
            )
        if not 0 <= self.magnitude_weight < float("inf"):
            raise ValueError(
                f"magnitude_weight={self.magnitude_weight} must be finite and not negative."
            )

    def __call__(
        self,
        log_density_fn: LogDensityFn,
        targets: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Evaluate the objective.

        ``log_density_fn`` is called L + 1 times: with (N, 1, D) for the first step, which all
        chains share, with (N, M, D) for the others, and with (N, 1+M, D) for the loss.
        Arguments are those of every objective, see :class:`.contracts.Objective`.

        Returns:
            ``loss``: scalar; not a likelihood, and usually close to zero.
            ``log_density_gap``: mean of f(target) minus f(chain), in nats.
            ``chain_distance``: root mean square of the chains' distance to the target, encoded
            coordinates.
            ``lost_chains``: fraction of chains that are left out, in [0, 1].
        """
        targets = targets.detach()
        start = targets.to(at_least_float32(targets.dtype)).unsqueeze(1)
        chains = langevin(
            log_density_fn,
            start,
            self.step_size,
            self.num_steps,
            self.grad_clip,
            generator,
            num_chains=self.num_samples,
        )
        finite = chains.isfinite().all(-1)
        # A lost chain is evaluated at its target, so that no NaN reaches the parameters of f.
        chains = chains.where(finite.unsqueeze(-1), start)
        log_f = evaluate(log_density_fn, torch.cat([start, chains], dim=1))
        log_f_target, log_f_chains = log_f[:, 0], log_f[:, 1:]
        valid = finite & log_f_chains.detach().isfinite()
        weighting: Weighting = {"weight": weight, "avg_factor": avg_factor}
        loss = mcmc_loss(log_f_target, log_f_chains, valid=valid, **weighting)
        if self.magnitude_weight:
            # Again the mean over the chains that are not lost, of another function of f.
            loss = loss + self.magnitude_weight * mcmc_loss(
                -log_f_target.square(), log_f_chains.square(), valid=valid, **weighting
            )
        num_valid = valid.sum().clamp(min=1)
        gap = (log_f_target.unsqueeze(1) - log_f_chains).detach().where(valid, 0)
        return {
            "loss": loss,
            "log_density_gap": gap.sum() / num_valid,
            "chain_distance": ((chains - start).square().sum() / num_valid).sqrt(),
            "lost_chains": (~valid).sum() / max(valid.numel(), 1),
        }
