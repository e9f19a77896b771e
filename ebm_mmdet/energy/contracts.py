"""The contracts of the package: what heads, distributions, objectives and refiners exchange.

    LogDensityFn       f of N targets, bound to their features; a head makes it
    Density            a distribution of offsets around a target; an objective samples it
    Proposal           a learned distribution of y for each target
    Objective          (f, targets) -> losses; it trains f
    Refiner            (f, first estimates) -> RefinementResult; it makes predictions

Each is a protocol: a class of your own fulfils it by having the methods, without inheriting
anything. Tensors have N targets, S points for each target, and D encoded coordinates for each
point. None of this depends on detectors, boxes or images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = [
    "Density",
    "LogDensityFn",
    "Objective",
    "Proposal",
    "ProposalLogDensityFn",
    "RefinementResult",
    "RefinementTrace",
    "Refiner",
    "RegressingLogDensityFn",
    "SelectableLogDensityFn",
]


class LogDensityFn(Protocol):
    """f with p(y | x_n) ∝ exp f_n(y), for N targets whose features x_n are bound inside.

    ``fn(y (N, S, D) float32) -> (N, S) float32``: S points per target, each a vector of D encoded
    coordinates. Entry (n, s) may depend on y[n, s] only, never on another point. f is defined up
    to a constant per target, and is differentiable in y.

    Refinement calls the function with gradients enabled, inference mode off and autocast off,
    whatever the mode of the caller. Therefore the code that binds the features has to clone those
    computed in inference mode, and to cast those in half precision to float32.
    """

    def __call__(self, y: Tensor) -> Tensor: ...


@runtime_checkable
class SelectableLogDensityFn(LogDensityFn, Protocol):
    """A log-density that can be narrowed to some of its targets.

    ``fn.select(index (n,) int64)(y (n, S, D)) == fn(full)[index]`` wherever ``full[index] == y``.
    Refinement uses it to stop evaluating targets that no longer move.
    """

    def select(self, index: Tensor) -> LogDensityFn: ...


@runtime_checkable
class RegressingLogDensityFn(LogDensityFn, Protocol):
    """A log-density that also says by regression where the target is."""

    def regress(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate f (N, S) at y (N, S, D), and steps s (N, S, D); the target is near y + s."""
        ...


class Density(Protocol):
    """A distribution that can be sampled and whose log-density is known.

    Samples carry no gradient. A density over offsets is centred on zero, so that y = target + δ.
    """

    def sample(
        self,
        n: int,
        num_samples: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, Tensor]:
        """Draw offsets (n, num_samples, D) with their log-densities (n, num_samples)."""
        ...

    def log_prob(self, offsets: Tensor) -> Tensor:
        """Log-density (...) of offsets (..., D), in nats."""
        ...


class Proposal(Protocol):
    """A density q(y | x_n; φ) for each of N targets, with parameters φ that may be learned.

    Unlike a ``Density`` it is not centred on the targets.
    """

    def draw(self, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw samples (N, S, D) without gradient."""
        ...

    def log_prob(self, y: Tensor) -> Tensor:
        """Log-density (N, S) of points (N, S, D) in nats, differentiable in φ."""
        ...


@runtime_checkable
class ProposalLogDensityFn(LogDensityFn, Protocol):
    """A log-density that comes with a learned proposal for the same targets."""

    def proposal(self) -> Proposal:
        """q(y | x_n) of the N targets, in the coordinates of f."""
        ...


class Objective(Protocol):
    """A training method: draw points around each target, score them, apply a loss."""

    def __call__(
        self,
        log_density_fn: LogDensityFn,
        targets: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Evaluate the objective.

        Args:
            log_density_fn: f, bound to the features of the N targets.
            targets: (N, D) encoded annotations y*; N may be 0, the loss is then a zero connected
                to whatever the function returns.
            weight: (N,) factor per target.
            avg_factor: divisor that replaces N.
            generator: source of randomness, on the device of the targets.

        Returns:
            ``loss``, the scalar to minimise, and detached scalars for the log. None of those has
            "loss" in its name, because mmengine adds up all entries that have.
        """
        ...


class RefinementTrace(NamedTuple):
    """All steps of a refinement; T is ``num_steps``, and the shapes are those for y0 (N, D).

    For y0 (N, S, D) every N becomes N, S.
    """

    y: Tensor
    """(T+1, N, D) points; entry 0 is y0."""
    log_density: Tensor
    """(T+1, N) f at those points; never decreases along the first dimension."""
    accepted: Tensor
    """(T, N) bool, whether step t moved the point: y[t+1] == y[t] wherever it is False."""


class RefinementResult(NamedTuple):
    """A prediction, with shapes for y0 (N, D); for (N, S, D) every N becomes N, S.

    A refiner that finds only the refined point leaves the optional fields None. One that samples
    also estimates the uncertainty, and fills in the covariance and the related fields. One that
    climbs from several starts may list the modes.
    """

    y: Tensor
    """(N, D) refined points, encoded coordinates, float32 or better."""
    log_density: Tensor
    """(N,) f at ``y``, unnormalised, without any prior; -inf where f is not finite."""
    accepted: Tensor
    """(N,) int64, the number of steps that moved the point."""
    trace: RefinementTrace | None = None
    """Every step, if the refiner is configured to keep it."""
    covariance: Tensor | None = None
    """(N, D, D) second moment of the posterior about ``y``, encoded coordinates."""
    ess: Tensor | None = None
    """(N,) effective sample size in [1, M]; 0 where f is finite at no sample."""
    log_prob: Tensor | None = None
    """(N,) normalised log-density of the posterior at ``y``, in nats; -inf where it is unknown."""
    samples: Tensor | None = None
    """(N, S, D) approximate samples of the posterior."""
    modes: Tensor | None = None
    """(N, K, D) distinct modes by descending log-density, the first is ``y``; then NaN."""
    mode_mass: Tensor | None = None
    """(N, K) share of the posterior that belongs to each mode; NaN where there is none, or where
    it is not known."""


class Refiner(Protocol):
    """Makes predictions from a log-density; configured once, called for every batch.

    A refiner stores nothing from a call, so that several threads may share it. The detectors call
    it with autocast off.
    """

    def __call__(
        self,
        log_density_fn: LogDensityFn,
        y0: Tensor,
        *,
        covariance: Tensor | None = None,
        num_per_image: Sequence[int] | None = None,
    ) -> RefinementResult:
        """Refine N first estimates.

        Args:
            log_density_fn: f of the N targets.
            y0: (N, D) first estimates, encoded coordinates.
            covariance: (N, D, D) the detector's covariance of each estimate, in the same
                coordinates; None if the detector gives none.
            num_per_image: number of the N targets that belong to each image, in order; their sum is
                N. None: all belong to one image. A refiner that draws random numbers uses the same
                seed for each image, so that a prediction depends only on its image.
        """
        ...
