"""Score matching: fit the derivatives of f, which do not depend on its normaliser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..contracts import LogDensityFn
from ..derivatives import TraceMethod, check_trace_method, value_and_grad, value_grad_and_trace
from ..log_density import at_least_float32
from ..losses import dsm_loss, score_matching_loss
from .settings import numbers

__all__ = ["DSMObjective", "ScoreMatchingObjective"]


@dataclass(frozen=True)
class ScoreMatchingObjective:
    """Score matching (SM):  L = tr ∇²_y f(y*) + ½ ‖∇_y f(y*)‖².

    Training needs derivatives of f of third order, two of them in y, so f has to be smooth: with
    ReLU the trace is zero almost everywhere. The exact trace costs D backward passes.

    Source: Hyvärinen, JMLR 2005; Gustafsson et al., "How to Train Your Energy-Based Model for
    Regression", BMVC 2020 (arXiv:2005.01698).

    Raises:
        ValueError: the method is unknown, or there are no probes.
    """

    trace: TraceMethod = "exact"
    """``"exact"``, or ``"hutchinson"`` for an unbiased estimate."""
    probes: int = 1
    """Backward passes of the estimate."""

    def __post_init__(self) -> None:
        check_trace_method(self.trace, self.probes)

    def __call__(
        self,
        log_density_fn: LogDensityFn,
        targets: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Evaluate the objective; ``log_density_fn`` is called once, with (N, 1, D).

        Arguments are those of every objective, see :class:`.contracts.Objective`.

        Returns:
            ``loss``: scalar.
            ``grad_norm``: root mean square of ‖∇f‖ at the targets.
            ``laplacian``: mean tr ∇²f at the targets, negative near a mode.
        """
        f, grad, trace = value_grad_and_trace(
            log_density_fn, targets.unsqueeze(1), self.trace, self.probes, generator, True
        )
        loss = score_matching_loss(grad[:, 0], trace[:, 0], weight=weight, avg_factor=avg_factor)
        count = max(len(targets), 1)
        return {
            "loss": _connected(loss, f),
            "grad_norm": (grad.detach().square().sum() / count).sqrt(),
            "laplacian": trace.detach().sum() / count,
        }


@dataclass(frozen=True)
class DSMObjective:
    """Denoising score matching (DSM).

        ỹ_m = y* + ε_m,   ε_1..ε_M ~ N(0, diag σ²)
        L = mean_m Σ_d (∇f(ỹ_m)_d + ε_md / σ_d²)²

    The minimiser is the density of the data smoothed by N(0, diag σ²). For a constant f, L is about
    Σ_d σ_d^-2, and it never falls much below its noise. ``scale_by_sigma`` multiplies every term by
    σ_d²: this changes the size of L (D for a constant f), but not the minimiser.

    Source: Vincent, Neural Computation 2011; Gustafsson et al., "How to Train Your Energy-Based
    Model for Regression", BMVC 2020 (arXiv:2005.01698); for boxes σ = 0.075.

    Raises:
        ValueError: ``num_samples`` below 1, or σ not positive and finite.
    """

    sigma: float | Sequence[float]
    """σ, encoded coordinates, a number or D of them."""
    num_samples: int = 128
    """M, noisy targets per target; the target itself is not scored."""
    scale_by_sigma: bool = False
    """Multiply every term by σ_d²; the published form is False."""

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError(f"num_samples={self.num_samples} must be 1 or more.")
        object.__setattr__(self, "sigma", numbers("sigma", self.sigma))

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
            ``grad_norm``: root mean square of ‖∇f‖ at the noisy targets.
            ``alignment``: cosine between ∇f and -ε, the direction back to the target, over all
                noisy targets together, in [-1, 1].
        """
        targets = targets.detach()
        targets = targets.to(at_least_float32(targets.dtype))
        n, dim = targets.shape
        sigma = torch.as_tensor(self.sigma, dtype=targets.dtype, device=targets.device)
        if sigma.dim() == 1 and len(sigma) != dim:
            raise ValueError(
                f"sigma={self.sigma} for targets of {dim} coordinates; give one number or {dim}."
            )
        noise = sigma * torch.randn(
            (n, self.num_samples, dim),
            generator=generator,
            dtype=targets.dtype,
            device=targets.device,
        )
        f, grad = value_and_grad(log_density_fn, targets.unsqueeze(1) + noise, create_graph=True)
        loss = dsm_loss(
            grad,
            noise,
            sigma,
            scale_by_sigma=self.scale_by_sigma,
            weight=weight,
            avg_factor=avg_factor,
        )
        slope, count = grad.detach(), max(n * self.num_samples, 1)
        squares, length = slope.square().sum(), noise.square().sum()
        return {
            "loss": _connected(loss, f),
            "grad_norm": (squares / count).sqrt(),
            "alignment": -(slope * noise).sum() / (squares * length).sqrt().clamp(min=1e-30),
        }


def _connected(loss: Tensor, f: Tensor) -> Tensor:
    """The same loss, from which every parameter of f gets a gradient.

    Parameters that only shift f as a whole (the last bias) have no gradient from ∇f, and
    distributed training would wait for it for ever. Here their gradient is zero.
    """
    return loss + 0 * f.where(f.isfinite(), 0).sum()
