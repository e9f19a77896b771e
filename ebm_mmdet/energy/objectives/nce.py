"""Noise contrastive estimation: tell the target from noise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..contracts import Density, LogDensityFn
from ..log_density import at_least_float32, evaluate
from ..losses import nce_loss
from ..old_names import refuse
from .settings import check_dim, replaced_by_num_noise

__all__ = ["NCEObjective", "ScalableDensity"]


@runtime_checkable
class ScalableDensity(Density, Protocol):
    """A density that NCE+ can narrow for the positive."""

    def scaled(self, beta: float) -> Density:
        """The same density with every standard deviation multiplied by ``beta``."""
        ...


@refuse("num_samples", replaced_by_num_noise)
@dataclass(frozen=True)
class NCEObjective:
    """Noise contrastive estimation (β = 0) and NCE+ (β > 0).

        δ_1..δ_M ~ q,   y_m = y* + δ_m                       noise
        y_0 = y* + ν,   ν = 0, or ν ~ q with every σ times β  positive
        L = logsumexp_m(f(y_m) - log q(δ_m)) - (f(y_0) - log q(ν))

    The positive of NCE+ is weighted by the unscaled q. β models the inaccuracy of annotations and
    multiplies standard deviations. Noise is drawn before ν, so one seed gives the same noise for
    every β, and ν is independent between targets even if the noise is shared.

    Noise that is centred on the target reveals which point is the target, so the minimiser differs
    from the density of the data by a bias that vanishes as M grows (M = 1: strong, M = 64: below
    1 %). The exchangeable form has no bias for any M: noise is drawn around a centre that is itself
    drawn around the positive, so that the distances of all points to the centre have the same
    distribution.

        c = y_0 + δ_c,   y_m = c + δ_m,   δ_c, δ_m ~ q symmetric,   L = logsumexp_m f(y_m) - f(y_0)

    Source of the published form: Gustafsson et al., "How to Train Your Energy-Based Model for
    Regression", BMVC 2020 (arXiv:2005.01698); for boxes β = 0.1 and 128 points per target, which
    is M = 127.

    Raises:
        ValueError: ``num_noise`` below 1, β negative or not finite, or exchangeable with
            antithetic noise, whose pairs would give the positive away.
    """

    noise: Density
    """q, a distribution of offsets; β > 0 also needs its ``scaled(beta)``."""
    num_noise: int = 127
    """M, noise samples per target; the positive is scored too."""
    beta: float = 0.0
    """β, scale of the positive's noise relative to q; 0 is plain NCE."""
    exchangeable: bool = False
    """The form without bias."""
    _positive_noise: Density | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.num_noise < 1:
            raise ValueError(
                f"num_noise={self.num_noise} leaves no noise to compare with; at least 1 is needed."
            )
        if not 0 <= self.beta < float("inf"):
            raise ValueError(f"beta={self.beta} must be finite and not negative; 0 is plain NCE.")
        if self.exchangeable and getattr(self.noise, "antithetic", False):
            raise ValueError(
                "exchangeable=True needs independent noise: among antithetic pairs the positive is "
                "the point without a partner; set antithetic=False."
            )
        positive = self._scaled_noise() if self.beta > 0 else None
        object.__setattr__(self, "_positive_noise", positive)

    def _scaled_noise(self) -> Density:
        if not isinstance(self.noise, ScalableDensity):
            raise ValueError(
                f"beta={self.beta} needs a noise with a method scaled(beta), which "
                f"{type(self.noise).__name__} does not have; add it, or set beta=0."
            )
        return self.noise.scaled(self.beta)

    def __call__(
        self,
        log_density_fn: LogDensityFn,
        targets: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Evaluate the objective; ``log_density_fn`` is called once, with (N, 1+M, D).

        Arguments are those of every objective, see :class:`.contracts.Objective`.

        Returns:
            ``loss``: scalar.
            ``accuracy``: share of targets whose positive has the largest logit, f - log q, or f in
            the exchangeable form; in [0, 1].
            ``logit_max``: mean of the largest logit of a target's noise, in nats.
            ``log_density_gap``: mean of f(positive) minus mean f(noise), in nats.
        """
        points, log_q = self._draw(targets.detach(), generator)
        log_f = evaluate(log_density_fn, points)
        loss = nce_loss(log_f, log_q, weight=weight, avg_factor=avg_factor)
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
        options: dict[str, Any] = {
            "generator": generator,
            "device": targets.device,
            "dtype": targets.dtype,
        }
        offsets, log_q = self.noise.sample(n, self.num_noise, **options)
        check_dim(offsets, targets)
        nu = torch.zeros_like(targets).unsqueeze(1)
        if self._positive_noise is not None:
            nu, _ = self._positive_noise.sample(n, 1, **options)
        if self.exchangeable:
            centre, _ = self.noise.sample(n, 1, **options)
            offsets = nu + centre + offsets
        points = targets.unsqueeze(1) + torch.cat([nu, offsets], dim=1)
        if self.exchangeable:
            return points, torch.zeros_like(points[..., 0])
        # q is constant in this objective, even if it is learned.
        return points, torch.cat([self.noise.log_prob(nu), log_q], dim=1).detach()
