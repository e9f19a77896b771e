"""Likelihood objectives whose integrals are estimated by importance sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..contracts import Density, LogDensityFn
from ..distributions import GaussianMixtureNoise
from ..importance import importance_diagnostics
from ..log_density import at_least_float32, evaluate
from ..losses import kld_is_loss, ml_is_loss
from ..old_names import refuse
from .settings import check_dim, numbers, replaced_by_num_noise

__all__ = ["KLDISObjective", "MLISObjective"]


@refuse("num_samples", replaced_by_num_noise)
@dataclass(frozen=True)
class MLISObjective:
    """Maximum likelihood by importance sampling (ML-IS).

        y_m = y* + δ_m,   δ_1..δ_M ~ q
        L = logsumexp_m(f(y_m) - log q(δ_m)) - log M - f(y*)

    L estimates -log p(y* | x), and may be negative. The estimate of Z is good if the effective
    sample size is large, so q has to cover the region where exp f has its mass.

    Source: Gustafsson et al., ECCV 2020 (arXiv:1909.12297) and BMVC 2020 (arXiv:2005.01698); for
    boxes σ = (0.0375, 0.075, 0.15) and 128 points per target, which is M = 127.

    Raises:
        ValueError: ``num_noise`` below 1.
    """

    noise: Density
    """q, a distribution of offsets."""
    num_noise: int = 127
    """M, samples per target; the target itself is scored too."""

    def __post_init__(self) -> None:
        if self.num_noise < 1:
            raise ValueError(
                f"num_noise={self.num_noise} leaves no sample to estimate Z with; at least 1 is "
                "needed."
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

        Arguments are those of every objective, see :class:`.contracts.Objective`.

        Returns:
            ``loss``: scalar.
            ``logit_max``: mean of the largest f - log q of a target's samples, in nats; it is log M
                above ``log_z`` if a single sample has all the weight.
            ``ess_ratio``: mean effective sample size divided by M, in (0, 1].
            ``log_z``: mean estimate of log Z, in nats; f is defined up to a constant only.
        """
        targets, offsets, log_q = draw_offsets(self.noise, targets, self.num_noise, generator)
        centre = targets.unsqueeze(1)
        log_f = evaluate(log_density_fn, torch.cat([centre, centre + offsets], dim=1))
        log_q = torch.cat([log_q[:, :1], log_q], dim=1)  # column 0 is not read
        loss = ml_is_loss(log_f, log_q, weight=weight, avg_factor=avg_factor)
        return {"loss": loss, **importance_diagnostics(log_f[:, 1:], log_q[:, 1:])}


@refuse(
    "num_noise",
    lambda value: (
        f"num_noise={value} has no meaning here, because the target is not scored; give "
        "num_samples. In a config that inherits num_noise, start the block with _delete_=True."
    ),
)
@dataclass(frozen=True)
class KLDISObjective:
    """Cross-entropy from a Gaussian label density, by importance sampling (KLD-IS).

        y_m = y* + δ_m,   δ_1..δ_M ~ q,   p_σ = N(0, diag σ²)
        L = logsumexp_m(f(y_m) - log q(δ_m)) - log M - 1/M Σ_m f(y_m) p_σ(δ_m) / q(δ_m)

    The minimiser is the density of the data smoothed by p_σ, as for noisy labels. With
    ``self_normalize`` the weights p_σ/q of a target sum to one, which reduces the variance, and a
    constant added to f no longer changes L.

    Source: Gustafsson et al., BMVC 2020 (arXiv:2005.01698); for boxes q with
    σ = (0.0375, 0.075, 0.15), label σ 0.0225 and 128 points per target.

    Raises:
        ValueError: ``num_samples`` below 1, or σ not positive and finite.
    """

    noise: Density
    """q, a distribution of offsets."""
    num_samples: int = 128
    """M, points scored per target; the target itself is not scored."""
    label_sigma: float | Sequence[float] = 0.0225
    """σ of the label, encoded coordinates, a number or D of them."""
    self_normalize: bool = False
    """Let the weights of a target sum to one; the published form is False."""

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError(f"num_samples={self.num_samples} must be 1 or more.")
        object.__setattr__(self, "label_sigma", numbers("label_sigma", self.label_sigma))

    def __call__(
        self,
        log_density_fn: LogDensityFn,
        targets: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Evaluate the objective; ``log_density_fn`` is called once, with (N, M, D).

        Arguments are those of every objective, see :class:`.contracts.Objective`.

        Returns:
            ``loss``: scalar.
            ``logit_max``, ``ess_ratio``, ``log_z``: as for :class:`MLISObjective`.
        """
        targets, offsets, log_q = draw_offsets(self.noise, targets, self.num_samples, generator)
        log_f = evaluate(log_density_fn, targets.unsqueeze(1) + offsets)
        label = self._label(offsets.shape[-1])
        if getattr(self.noise, "shared", False):  # every row is the first
            log_p = label.log_prob(offsets[:1]).expand_as(log_q)
        else:
            log_p = label.log_prob(offsets)
        loss = kld_is_loss(
            log_f,
            log_q,
            log_p,
            self_normalize=self.self_normalize,
            weight=weight,
            avg_factor=avg_factor,
        )
        return {"loss": loss, **importance_diagnostics(log_f, log_q)}

    def _label(self, dim: int) -> GaussianMixtureNoise:
        row = torch.as_tensor(self.label_sigma, dtype=torch.float64).view(1, -1)
        if row.shape[1] not in (1, dim):
            raise ValueError(
                f"label_sigma={self.label_sigma} for targets of {dim} coordinates; give one number "
                f"or {dim}."
            )
        return GaussianMixtureNoise(row.expand(1, dim))


def draw_offsets(
    noise: Density, targets: Tensor, num_samples: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Targets (N, D) in float32 or better, offsets (N, S, D) and their log q (N, S): constants."""
    targets = targets.detach()
    targets = targets.to(at_least_float32(targets.dtype))
    offsets, log_q = noise.sample(
        len(targets), num_samples, generator, device=targets.device, dtype=targets.dtype
    )
    check_dim(offsets, targets)
    return targets, offsets.detach(), log_q.detach()
