"""Training objectives: draw points around each target, score them, apply a loss.

An objective is called as ``objective(log_density_fn, targets (N, D), ...) -> dict`` and knows
nothing of detectors. ``loss`` is what is minimised; every other entry is a detached scalar for the
log, and has no "loss" in its name, because mmengine sums all entries that have.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .distributions import Density
from .log_density import LogDensityFn, at_least_float32, evaluate
from .losses import nce_loss

__all__ = ["NCEObjective"]


class NCEObjective:
    """Noise contrastive estimation (β = 0) and NCE+ (β > 0).

        δ_1..δ_M ~ q,   y_m = y* + δ_m                       noise
        y_0 = y* + ν,   ν = 0, or ν ~ q with every σ times β  positive
        L = logsumexp_m(f(y_m) - log q(δ_m)) - (f(y_0) - log q(ν))

    The positive of NCE+ is weighted by the unscaled q. β models the inaccuracy of annotation and
    multiplies standard deviations. Noise is independent between targets, and drawn before ν, so
    one seed gives the same noise for every β.

    Source: Gustafsson et al., "How to Train Your Energy-Based Model for Regression", BMVC 2020
    (arXiv:2005.01698); for boxes β = 0.1 and 128 points per target.

    Args:
        noise: q, a distribution of offsets; β > 0 also needs its ``scaled(beta)``.
        num_samples: 1 + M, points scored per target, the positive included.
        beta: scale of the positive's noise relative to q.

    Raises:
        ValueError: ``num_samples`` below 2, or β negative or not finite.
    """

    def __init__(self, noise: Density, num_samples: int = 128, beta: float = 0.0) -> None:
        if num_samples < 2:
            raise ValueError(
                f"num_samples={num_samples} leaves no noise to compare with; it counts the "
                "positive too, so at least 2 are needed."
            )
        if not 0 <= beta < float("inf"):
            raise ValueError(f"beta={beta} must be finite and not negative; 0 is plain NCE.")
        self.noise = noise
        self.num_samples = num_samples
        self.beta = beta
        self._positive_noise = noise.scaled(beta) if beta > 0 else None

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(noise={self.noise!r}, num_samples={self.num_samples}, "
            f"beta={self.beta})"
        )

    def __call__(
        self,
        log_density_fn: LogDensityFn,
        targets: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Evaluate the objective; ``log_density_fn`` is called once, with (N, 1+M, D).

        Args:
            log_density_fn: f, bound to the features of the N targets.
            targets: (N, D) encoded annotations y*; N may be 0.
            weight: (N,) factor per target.
            avg_factor: divisor that replaces N.
            generator: source of randomness, on the device of ``targets``.

        Returns:
            ``loss``: scalar; for N = 0 a zero connected to whatever ``log_density_fn`` returns.
            ``accuracy``: share of targets whose positive has the largest f - log q, in [0, 1].
            ``log_density_gap``: mean of f(positive) minus mean f(noise), in nats.
        """
        points, log_q = self._draw(targets.detach(), generator)
        log_f = evaluate(log_density_fn, points)
        loss = nce_loss(log_f, log_q, weight, avg_factor=avg_factor)
        log_f, count = log_f.detach(), max(len(targets), 1)
        return {
            "loss": loss,
            "accuracy": ((log_f - log_q).argmax(1) == 0).sum() / count,
            "log_density_gap": (log_f[:, 0] - log_f[:, 1:].mean(1)).sum() / count,
        }

    def _draw(self, targets: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Points (N, 1+M, D), positive first, and log q of their offsets (N, 1+M)."""
        n = len(targets)
        targets = targets.to(at_least_float32(targets.dtype))
        options = {"generator": generator, "device": targets.device, "dtype": targets.dtype}
        offsets, log_q = self.noise.sample(n, self.num_samples - 1, **options)
        nu = torch.zeros_like(targets).unsqueeze(1)
        if self._positive_noise is not None:
            nu, _ = self._positive_noise.sample(n, 1, **options)
        points = targets.unsqueeze(1) + torch.cat([nu, offsets], dim=1)
        # q is a constant of this objective, also where it is learned.
        return points, torch.cat([self.noise.log_prob(nu), log_q], dim=1).detach()
