"""Sampling from a log-density by short Langevin chains."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .contracts import LogDensityFn
from .derivatives import value_and_grad
from .log_density import at_least_float32

__all__ = ["langevin"]


def langevin(
    log_density_fn: LogDensityFn,
    y0: Tensor,
    step_size: float | Sequence[float] | Tensor,
    num_steps: int,
    grad_clip: float | None = None,
    generator: torch.Generator | None = None,
    num_chains: int | None = None,
) -> Tensor:
    """Run unadjusted Langevin chains from y0.

        y ← y + λ²/2 ∇f(y) + λ ξ,    ξ ~ N(0, I),    ``num_steps`` times

    On a Gaussian mode of variance s² the stationary variance is s² / (1 - λ²/(4 s²)), and the
    chains diverge for λ > 2 s. The state is detached at every step: no gradient flows through a
    chain, and no gradient of the parameters of f is computed. The mode of the caller (``no_grad``,
    ``inference_mode``, autocast) does not matter. Cost: ``num_steps`` evaluations of f, each with a
    backward pass to y.

    A chain whose next state is not finite is stopped and returned as NaN; f is never evaluated
    there, and other chains are not affected.

    Source: Gustafsson et al., "How to Train Your Energy-Based Model for Regression", BMVC 2020
    (arXiv:2005.01698), ML-MCMC; the papers' step λ is this λ.

    Args:
        log_density_fn: f; entry (n, s) must depend on point (n, s) only.
        y0: (N, S, D) starts, encoded coordinates.
        step_size: λ, a number or (D,), the standard deviation of one step; not negative.
        num_steps: L; 0 returns the starts.
        grad_clip: largest allowed ‖∇f‖₂ of a chain; longer gradients are shortened to this length.
        generator: source of randomness, on the device of ``y0``.
        num_chains: number of chains to run from each start; needs S = 1. The chains share the first
            gradient, which is computed once.

    Returns:
        (N, S, D) last states, detached, float32 or better; S is ``num_chains`` where it is given.

    Raises:
        ValueError: an argument is outside the range or shape given above.
        RuntimeError: the returned f has no gradient with respect to y.
    """
    step_size, num_chains = _checked(y0, step_size, num_steps, grad_clip, num_chains)
    with torch.no_grad(), torch.inference_mode(False):
        y = y0.clone() if y0.is_inference() else y0.detach()
        y = y.to(at_least_float32(y.dtype))
        shape = (len(y), num_chains, y.shape[-1])
        half_square = 0.5 * step_size.square()
        lost = None
        for _ in range(num_steps):
            _, drift = value_and_grad(log_density_fn, y)
            if grad_clip is not None:
                drift = _clipped(drift, grad_clip)
            noise = torch.randn(shape, dtype=y.dtype, device=y.device, generator=generator)
            proposal = (y + half_square * drift).addcmul(noise, step_size)
            # The sum of all states is cheap to check, and finite as long as no chain is lost.
            if lost is not None or not proposal.sum().isfinite():
                finite = proposal.isfinite().all(-1, keepdim=True)
                lost = ~finite if lost is None else lost | ~finite
                proposal = y.where(lost, proposal)
            y = proposal
        return y.expand(shape) if lost is None else y.masked_fill(lost, math.nan)


def _clipped(vectors: Tensor, longest: float) -> Tensor:
    """Shorten vectors (..., D) to at most the given length, without overflow of their squares."""
    tiny = torch.finfo(vectors.dtype).tiny
    peak = vectors.abs().amax(-1, keepdim=True).clamp(min=tiny)
    direction = vectors / peak
    factor: Tensor = longest / peak / direction.norm(dim=-1, keepdim=True)
    return vectors * factor.clamp(max=1)


def check_langevin(num_steps: int, grad_clip: float | None) -> None:
    """Raise ``ValueError`` for settings that do not describe a chain."""
    if num_steps < 0:
        raise ValueError(f"num_steps={num_steps} must be 0 (only the starts) or more.")
    if grad_clip is not None and not grad_clip > 0:
        raise ValueError(f"grad_clip={grad_clip} must be positive; use None for no limit.")


def _checked(
    y0: Tensor,
    step_size: float | Sequence[float] | Tensor,
    num_steps: int,
    grad_clip: float | None,
    num_chains: int | None,
) -> tuple[Tensor, int]:
    """λ as a tensor, number or (D,), and the number of chains per target."""
    check_langevin(num_steps, grad_clip)
    if y0.dim() != 3:
        raise ValueError(f"y0 has shape {tuple(y0.shape)}; expected starts (N, S, D).")
    step_size = torch.as_tensor(step_size, dtype=at_least_float32(y0.dtype), device=y0.device)
    if step_size.dim() > 1 or (step_size.dim() == 1 and len(step_size) != y0.shape[-1]):
        raise ValueError(
            f"step_size of shape {tuple(step_size.shape)} does not fit points of shape "
            f"{tuple(y0.shape)}; give a number or (D,)."
        )
    if not ((step_size >= 0) & step_size.isfinite()).all():
        raise ValueError(f"step_size must be finite and not negative, got {step_size.tolist()}.")
    if num_chains is None:
        return step_size, y0.shape[1]
    if num_chains < 1 or y0.shape[1] != 1:
        raise ValueError(
            f"num_chains={num_chains} from y0 of shape {tuple(y0.shape)}; expected at least one "
            "chain, and one start per target, (N, 1, D)."
        )
    return step_size, num_chains
