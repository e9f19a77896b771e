"""Prediction from a learned proposal: means, samples, and ascents from several points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import TASK_UTILS
from torch import Tensor

from ...energy import (
    MixtureDensity,
    ProposalLogDensityFn,
    RefinementResult,
    best_of_groups,
    distinct_modes,
    gradient_ascent,
    highest_end,
    importance_covariance,
    importance_mean,
    importance_weights,
    mass_by_nearest,
    resample,
)
from ...energy.log_density import evaluate_finite

__all__ = ["ProposalRefiner"]


@TASK_UTILS.register_module()
class ProposalRefiner:
    """Self-normalised importance sampling of p ∝ exp f with the head's learned proposal q.

        y_m ~ q(· | x, detection),   w = softmax_m(f(y_m) - log q(y_m))
        y = Σ_m w_m y_m,   log Z = logsumexp_m(f - log q) - log M,   log p(y) = f(y) - log Z

    With ``climb``, the result is the highest mode found instead of the mean: gradient ascent on f
    starts from the detection's box and from the best sample of each of ``num_starts`` equal groups,
    so its f is at least that of an ascent from the detection alone. The covariance is then about
    that mode. With ``num_modes=K`` in it, the result also has the K highest modes
    (:func:`~ebm_mmdet.energy.distinct_modes`) and the share of the samples' weight that is nearest
    to each of them (:func:`~ebm_mmdet.energy.mass_by_nearest`, distances in standard deviations of
    the samples).

    Samples are drawn from ``seed`` again for every image, so a prediction depends only on its
    image. If f is finite at no sample, the box does not move and gets the covariance of q about it
    and ESS 0. A warning (once per process) reports samples that are too few for the result to mean
    anything.

    Args:
        num_samples: M, samples per box.
        climb: None for the mean, or ``dict(step_size=..., num_steps=10, decay=0.5,
            num_starts=4, num_modes=0)``, all but ``num_starts`` as for ``GradientAscentRefiner``.
        num_resampled: number of approximate samples of p to return per box.
        seed: seed of all draws.

    Raises:
        ValueError: there is no sample, there are more groups than samples, or ``climb`` has unknown
            keys.

    Source: Gustafsson et al., AISTATS 2022 (arXiv:2110.11948).
    """

    def __init__(
        self,
        num_samples: int = 64,
        climb: dict | None = None,
        num_resampled: int = 0,
        seed: int = 0,
    ) -> None:
        defaults = {"num_steps": 10, "decay": 0.5, "num_starts": 4, "num_modes": 0}
        climb = {} if climb is None else {**defaults, **climb}
        if climb and set(climb) != {"step_size", *defaults}:
            raise ValueError(
                f"climb={climb!r}; expected dict(step_size=..., num_steps=10, decay=0.5, "
                "num_starts=4, num_modes=0)"
            )
        self.num_starts = climb.pop("num_starts", 1)
        self.num_modes = climb.pop("num_modes", 0)
        if not 0 <= self.num_modes <= self.num_starts + 1:
            raise ValueError(
                f"num_modes={self.num_modes} must be from 0 to num_starts + 1 = "
                f"{self.num_starts + 1}, the number of climbs"
            )
        if not 1 <= self.num_starts <= num_samples:
            raise ValueError(
                f"num_samples={num_samples} and num_starts={self.num_starts}: need at least one "
                "sample, and no more groups than samples"
            )
        self.num_samples, self.climb = num_samples, climb
        self.num_resampled, self.seed = num_resampled, seed

    @torch.no_grad()
    def __call__(
        self,
        log_density_fn: ProposalLogDensityFn,
        y0: Tensor,
        *,
        covariance: Tensor | None = None,
        num_per_image: Sequence[int] | None = None,
    ) -> RefinementResult:
        """Predict N boxes.

        Args:
            log_density_fn: f with a ``proposal()``.
            y0: (N, D) encoded detections.
            covariance: not read, because the proposal replaces it.
            num_per_image: number of detections of each image; by default all belong to one image.

        Raises:
            ValueError: the log-density has no proposal.
        """
        if not isinstance(log_density_fn, ProposalLogDensityFn):
            raise ValueError(
                "ProposalRefiner needs an energy head with a learned proposal; use "
                "energy_head.type='ProposalEBMBBoxHead', or ImportanceMeanRefiner, which does "
                "without"
            )
        proposal = log_density_fn.proposal()
        images = torch.arange(len(y0), device=y0.device)
        images = images.split(list(num_per_image or ()) or len(y0) or 1)
        samples = torch.cat([self._draw(proposal.select(rows)) for rows in images])
        f = evaluate_finite(log_density_fn, samples)
        w = importance_weights(f, proposal.log_prob(samples))
        alive = w.ess > 0
        modes = mass = None
        if self.climb:
            y, log_density, steps, modes = self._highest(log_density_fn, y0, samples, f)
            if modes is not None:
                spread = samples.std(1).clamp(min=torch.finfo(samples.dtype).tiny)
                mass = mass_by_nearest(samples, w.weights, modes, spread)
                mass = mass.masked_fill(~alive.unsqueeze(1), torch.nan)
        else:
            y = importance_mean(samples, w.weights).where(alive.unsqueeze(1), y0)
            log_density = evaluate_finite(log_density_fn, y.unsqueeze(1)).squeeze(1)
            steps = (y != y0).any(1).long()
        draws = None
        if self.num_resampled:
            draws = torch.cat(
                [
                    resample(
                        samples[rows], w.weights[rows], self.num_resampled, self._generator(y0)
                    )
                    for rows in images
                ]
            )
        return RefinementResult(
            y=y,
            log_density=log_density,
            accepted=steps,
            covariance=importance_covariance(samples, w.weights, y),
            ess=w.ess,
            log_prob=(log_density - w.log_z).where(alive, -torch.inf),
            samples=draws,
            modes=modes,
            mode_mass=mass,
        )

    def _draw(self, proposal: MixtureDensity) -> Tensor:
        """The samples (n, M, D) of the boxes of one image."""
        return proposal.draw(self.num_samples, self._generator(proposal.means))

    def _generator(self, like: Tensor) -> torch.Generator:
        return torch.Generator(like.device).manual_seed(self.seed)

    def _highest(
        self, log_density_fn: ProposalLogDensityFn, y0: Tensor, samples: Tensor, f: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """The highest end of all ascents: y (N, D), f (N,), steps (1 or more if y moved), modes.

        The modes (N, K, D) are None unless asked for.
        """
        best = best_of_groups(samples, f, self.num_starts)
        starts = torch.cat([y0.unsqueeze(1), best], dim=1)
        ends = gradient_ascent(log_density_fn, starts, **self.climb)
        y, log_density, steps, *_ = highest_end(ends, y0)
        modes = None
        if self.num_modes:
            modes = distinct_modes(log_density_fn, ends.y, ends.log_density, self.num_modes)
        return y, log_density, steps, modes
