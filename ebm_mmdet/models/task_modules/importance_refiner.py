"""Prediction by averaging: the posterior mean by importance sampling, without gradients."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from mmdet.registry import TASK_UTILS
from torch import Tensor

from ...energy import (
    LogDensityFn,
    RefinementResult,
    importance_covariance,
    importance_mean,
    importance_weights,
)
from ...energy.log_density import evaluate_finite
from ...energy.priors import gaussian_log_density, gaussian_offsets
from .detection_prior import DetectionPrior

__all__ = ["ImportanceMeanRefiner"]


@TASK_UTILS.register_module()
class ImportanceMeanRefiner:
    """Mean of a posterior ``temperature f + log N(y; ŷ + bias, (scale std)²)`` by sampling.

        y_m = ŷ + bias + scale std ε_m,   w = softmax_m(temperature f(y_m)),   y = Σ_m w_m y_m

    (with ``std='per_box'``: scale L ε_m, where L Lᵀ is the covariance that the detector predicts).
    The prior is the proposal, and the result includes a covariance and an effective sample size.
    One call of f evaluates all samples of a box, and one more evaluation per box gives f at the
    mean. No gradient of f is needed.

    ε are M standard normal numbers per coordinate in antithetic pairs (ε, -ε), transformed to have
    covariance 1 exactly. They are the same for every box and drawn from ``seed``, so a prediction
    depends only on its image. If f is constant, the mean is ŷ + bias and the covariance is that of
    the prior, up to rounding.

    If f is finite at no sample, the box does not move and gets the covariance of the prior and
    ESS 0. A warning (once per process) reports samples that are too few for the result to mean
    anything.

    Args:
        prior: ``dict(std=..., bias=0.0, scale=1.0, temperature=1.0)``, see
            :class:`.DetectionPrior`. The scale is also the width of the search: a wide search finds
            other objects.
        num_samples: M, even and at least 2 D.
        seed: seed of ε.

    Raises:
        ValueError: an argument is outside the range given above.

    Source: Gustafsson et al., AISTATS 2022 (arXiv:2110.11948), self-normalised importance
    sampling, with a Gaussian around the detection as proposal.
    """

    def __init__(self, prior: dict, num_samples: int = 32, seed: int = 0) -> None:
        if num_samples < 2 or num_samples % 2:
            raise ValueError(f"num_samples={num_samples}: antithetic samples come in pairs")
        self.prior = DetectionPrior.from_config(prior)
        self.num_samples, self.seed = num_samples, seed

    @torch.no_grad()
    def __call__(
        self,
        log_density_fn: LogDensityFn,
        y0: Tensor,
        *,
        covariance: Tensor | None = None,
        num_per_image: Sequence[int] | None = None,
    ) -> RefinementResult:
        """Compute the posterior means around ``y0``.

        Args:
            log_density_fn: f of the N boxes.
            y0: (N, D) encoded detections ŷ.
            covariance: (N, D, D) of the detector, encoded; read with ``prior.std='per_box'``.
            num_per_image: not read, because ε are the same for every box.

        Raises:
            ValueError: too few samples for D coordinates.
        """
        std, centre = self.prior.scaled_std(y0, covariance), self.prior.mean(y0)
        noise = antithetic_normal(self.num_samples, y0.shape[1], self.seed)
        noise = noise.to(y0, non_blocking=True)
        samples = centre.unsqueeze(1) + gaussian_offsets(noise, std)
        tau = self.prior.temperature

        f = evaluate_finite(log_density_fn, samples)
        log_q = gaussian_log_density(samples, centre, std)
        w = importance_weights(tau * f + log_q, log_q)
        alive = w.ess > 0
        found_mean = importance_mean(samples, w.weights)
        mean = found_mean.where(alive.unsqueeze(1), y0)
        at_mean = evaluate_finite(log_density_fn, mean.unsqueeze(1))
        log_posterior = tau * at_mean + gaussian_log_density(mean.unsqueeze(1), centre, std)
        return RefinementResult(
            y=mean,
            log_density=at_mean.squeeze(1),
            accepted=(mean != y0).any(1).long(),
            # About the samples' mean even if the box stays: with a bias that is not the box.
            covariance=importance_covariance(samples, w.weights, found_mean),
            ess=w.ess,
            log_prob=(log_posterior.squeeze(1) - w.log_z).where(alive, -torch.inf),
        )


@functools.cache
@torch.inference_mode(False)
def antithetic_normal(num_samples: int, dim: int, seed: int) -> Tensor:
    """ε (num_samples, dim) float32 with mean 0, covariance 1 and ε_{m + M/2} = -ε_m, on the CPU.

    It is drawn once per process: do not write into it.

    Raises:
        ValueError: fewer than ``2 dim`` samples, whose covariance is singular.
    """
    half = num_samples // 2
    if half < dim:
        raise ValueError(
            f"num_samples={num_samples} cannot span {dim} coordinates; use at least {2 * dim}"
        )
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(half, dim, generator=generator, dtype=torch.float64)
    root = torch.linalg.cholesky(noise.mT @ noise / half)
    noise = torch.linalg.solve_triangular(root, noise.mT, upper=False).mT
    return torch.cat([noise, -noise]).float()
