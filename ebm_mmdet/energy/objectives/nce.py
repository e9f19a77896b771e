"""Noise contrastive estimation: tell the target from noise."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts import Density, LogDensityFn
from ..log_density import at_least_float32, evaluate
from ..losses import nce_loss

__all__ = ["NCEObjective"]


class NCEObjective:
    """Noise contrastive estimation (β = 0) and NCE+ (β > 0).

        δ_1..δ_M ~ q,   y_m = y* + δ_m                       noise
        y_0 = y* + ν,   ν = 0, or ν ~ q with every σ times β  positive
        L = logsumexp_m(f(y_m) - log q(δ_m)) - (f(y_0) - log q(ν))

    The positive of NCE+ is weighted by the unscaled q. β models the inaccuracy of annotation and
    multiplies standard deviations. Noise is drawn before ν, so one seed gives the same noise for
    every β, and ν is independent between targets even where noise is shared.

    Noise centred on the target tells which point is the target, so the minimiser differs from the
    density of the data by a bias that fades as M grows (M = 1: strong, M = 64: below 1 %). The
    exchangeable form has none for any M: noise is drawn around a centre, which is itself drawn
    around the positive, so that every point is equally far from the centre.

        c = y_0 + δ_c,   y_m = c + δ_m,   δ_c, δ_m ~ q symmetric,   L = logsumexp_m f(y_m) - f(y_0)

    Source of the published form: Gustafsson et al., "How to Train Your Energy-Based Model for
    Regression", BMVC 2020 (arXiv:2005.01698); for boxes β = 0.1 and 128 points per target.

    Args:
        noise: q, a distribution of offsets; β > 0 also needs its ``scaled(beta)``.
        num_samples: 1 + M, points scored per target, the positive included.
        beta: scale of the positive's noise relative to q.
        exchangeable: the form without bias.

    Raises:
        ValueError: ``num_samples`` below 2, β negative or not finite, or exchangeable with
            antithetic noise, whose pairs would give the positive away.
    """

    def __init__(
        self,
        noise: Density,
        num_samples: int = 128,
        beta: float = 0.0,
        exchangeable: bool = False,
    ) -> None:
        if num_samples < 2:
            raise ValueError(
                f"num_samples={num_samples} leaves no noise to compare with; it counts the "
                "positive too, so at least 2 are needed."
            )
        if not 0 <= beta < float("inf"):
            raise ValueError(f"beta={beta} must be finite and not negative; 0 is plain NCE.")
        if exchangeable and getattr(noise, "antithetic", False):
            raise ValueError(
                "exchangeable=True needs independent noise: among antithetic pairs the positive is "
                "the point without a partner; set antithetic=False."
            )
        self.noise = noise
        self.num_samples = num_samples
        self.beta = beta
        self.exchangeable = exchangeable
        self._positive_noise = noise.scaled(beta) if beta > 0 else None

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(noise={self.noise!r}, num_samples={self.num_samples}, "
            f"beta={self.beta}, exchangeable={self.exchangeable})"
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

        Arguments are those of every objective, see :mod:`ebm_mmdet.energy.objectives`.

        Returns:
            ``loss``: scalar.
            ``accuracy``: share of targets whose positive has the largest logit, f - log q, or f in
            the exchangeable form; in [0, 1].
            ``logit_max``: mean of the largest logit of a target's noise, in nats.
            ``log_density_gap``: mean of f(positive) minus mean f(noise), in nats.
        """
        points, log_q = self._draw(targets.detach(), generator)
        log_f = evaluate(log_density_fn, points)
        loss = nce_loss(log_f, log_q, weight, avg_factor=avg_factor)
        log_f, count = log_f.detach(), max(len(targets), 1)
        logits = log_f - log_q
        return {
            "loss": loss,
            "accuracy": (logits.argmax(1) == 0).sum() / count,
            "logit_max": logits[:, 1:].amax(1).sum() / count,
            "log_density_gap": (log_f[:, 0] - log_f[:, 1:].mean(1)).sum() / count,
        }

    def _draw(self, targets: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Points (N, 1+M, D), positive first, and what to subtract from f there (N, 1+M)."""
        n = len(targets)
        targets = targets.to(at_least_float32(targets.dtype))
        options = {"generator": generator, "device": targets.device, "dtype": targets.dtype}
        offsets, log_q = self.noise.sample(n, self.num_samples - 1, **options)
        nu = torch.zeros_like(targets).unsqueeze(1)
        if self._positive_noise is not None:
            nu, _ = self._positive_noise.sample(n, 1, **options)
        if self.exchangeable:
            centre, _ = self.noise.sample(n, 1, **options)
            offsets = nu + centre + offsets
        points = targets.unsqueeze(1) + torch.cat([nu, offsets], dim=1)
        if self.exchangeable:
            return points, torch.zeros_like(points[..., 0])
        # q is a constant of this objective, also where it is learned.
        return points, torch.cat([self.noise.log_prob(nu), log_q], dim=1).detach()
