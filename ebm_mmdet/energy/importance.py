"""Self-normalised importance sampling: moments and samples of p ∝ exp f from those of a proposal.

For samples y_1..y_M ~ q of one target, with logits u_m = f(y_m) - log q(y_m):

    w = softmax(u)                      weights
    E_p[g] ≈ Σ_m w_m g(y_m)             any moment; biased O(1/M)
    log Z ≈ logsumexp(u) - log M        hence log p(y) ≈ f(y) - log Z, normalised
    ESS = 1 / Σ_m w_m²                  in [1, M]: the number of samples from p they are worth

The estimate ignores a mode of p that the proposal never samples, and the effective sample size does
not reveal it.

Source: Gustafsson et al., "Learning Proposals for Practical Energy-Based Regression", AISTATS 2022
(arXiv:2110.11948), section on sampling; effective sample size: Kong, 1992.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from .host_reads import records_graph
from .log_density import at_least_float32

__all__ = [
    "ImportanceWeights",
    "importance_covariance",
    "importance_mean",
    "importance_weights",
    "resample",
]

# With fewer than two effective samples, the estimate is that of the one sample with most weight.
MIN_EFFECTIVE_SAMPLES = 2.0


class ImportanceWeights(NamedTuple):
    """Weights and normalisers of N targets, float32 or better."""

    weights: Tensor
    """(N, M) w, not negative, sum 1 over the samples of a target."""
    log_z: Tensor
    """(N,) estimate of log Z, in nats; ``f(y) - log_z`` is a normalised log-density."""
    ess: Tensor
    """(N,) effective sample size, in [1, M]; 0 where no sample has a finite f."""


class _Warned:
    """Whether this process has been warned: once is information, once per image is noise."""

    already = False


def importance_weights(log_f: Tensor, log_q: Tensor) -> ImportanceWeights:
    """Weights, log Z and effective sample size of M samples for each of N targets.

    A sample whose logit is not finite has weight 0. If a target has no sample with a finite logit,
    its weights are 1/M (so its moments are those of the proposal), log Z is -inf and ESS is 0.

    Warns once per process (``RuntimeWarning``) if a target with M ≥ 2 has an effective sample size
    below 2, which is too small for moments to mean anything.

    Args:
        log_f: (N, M) unnormalised log-densities f at the samples, M ≥ 1.
        log_q: (N, M) log-densities of the proposal at the same points, in nats.

    Returns:
        Weights through which gradients flow to both inputs; see :class:`ImportanceWeights`.

    Raises:
        ValueError: the shapes are not those given above.
    """
    if log_f.dim() != 2 or log_f.shape != log_q.shape or log_f.shape[1] == 0:
        raise ValueError(
            f"log_f {tuple(log_f.shape)} and log_q {tuple(log_q.shape)} must both be (N, M), M ≥ 1."
        )
    dtype = at_least_float32(log_f.dtype)
    logits = log_f.to(dtype) - log_q.to(dtype)
    finite = logits.isfinite()
    lost = ~finite.any(1)
    # Equal logits for a target without a finite one; -inf, which softmax turns into 0, elsewhere.
    logits = logits.masked_fill(~finite, -torch.inf).masked_fill(lost[:, None], 0)
    weights = logits.softmax(1)
    log_z = logits.logsumexp(1) - math.log(logits.shape[1])
    result = ImportanceWeights(
        weights,
        log_z.masked_fill(lost, -torch.inf),
        (1 / weights.square().sum(1)).masked_fill(lost, 0),
    )
    if not _Warned.already and logits.shape[1] > 1 and not records_graph():
        _warn_if_meaningless(result.ess.detach(), logits.shape[1])
    return result


def _warn_if_meaningless(ess: Tensor, num_samples: int) -> None:
    too_few = int((ess < MIN_EFFECTIVE_SAMPLES).sum())
    if too_few:
        _Warned.already = True
        warnings.warn(
            f"{too_few} of {len(ess)} targets have an effective sample size below "
            f"{MIN_EFFECTIVE_SAMPLES:g} of {num_samples}: their moments are those of a single "
            "sample. Draw more samples, or widen or train the proposal. Said once per process.",
            RuntimeWarning,
            stacklevel=3,
        )


def importance_mean(y: Tensor, weights: Tensor, periodic: Tensor | None = None) -> Tensor:
    """Weighted mean  Σ_m w_m y_m  of the samples of each target.

    Args:
        y: (N, M, D) samples.
        weights: (N, M), sum 1 over M.
        periodic: (D,) bool, coordinates that are angles in radians; for those the mean is
            circular, atan2(Σ w sin y, Σ w cos y) in [-π, π].

    Returns:
        (N, D).
    """
    w = _column(y, weights)
    mean = (w * y).sum(1)
    if periodic is None:
        return mean
    angle = torch.atan2((w * y.sin()).sum(1), (w * y.cos()).sum(1))
    return angle.where(periodic.to(y.device), mean)


def importance_covariance(
    y: Tensor, weights: Tensor, mean: Tensor, periodic: Tensor | None = None
) -> Tensor:
    """Weighted covariance  Σ_m w_m (y_m - μ)(y_m - μ)ᵀ: symmetric, positive semi-definite.

    A small effective sample size is not corrected for: with an ESS of 1 the covariance is zero.

    Args:
        y: (N, M, D) samples.
        weights: (N, M), sum 1 over M.
        mean: (N, D) μ, from :func:`importance_mean`.
        periodic: (D,) bool, as in :func:`importance_mean`; their differences are wrapped to
            [-π, π].

    Returns:
        (N, D, D).
    """
    w = _column(y, weights)
    difference = y - mean.unsqueeze(1)
    if periodic is not None:
        wrapped = torch.remainder(difference + math.pi, 2 * math.pi) - math.pi
        difference = wrapped.where(periodic.to(y.device), difference)
    # Autocast would multiply the matrices in half precision.
    with torch.autocast(y.device.type, enabled=False):
        covariance = (w * difference).mT @ difference
    return 0.5 * (covariance + covariance.mT)


def resample(
    y: Tensor, weights: Tensor, num_samples: int, generator: torch.Generator | None = None
) -> Tensor:
    """Approximate samples of p: draw from the samples of q with replacement, with probability w.

    Args:
        y: (N, M, D) samples of q.
        weights: (N, M), sum 1 over M.
        num_samples: S, samples per target.
        generator: source of randomness, on the device of ``y``.

    Returns:
        (N, S, D).
    """
    _column(y, weights)
    if len(y) == 0:
        return y.new_zeros(0, num_samples, y.shape[-1])
    index = torch.multinomial(weights.detach(), num_samples, True, generator=generator)
    return y.gather(1, index.unsqueeze(-1).expand(-1, -1, y.shape[-1]))


@torch.no_grad()
def importance_diagnostics(log_f: Tensor, log_q: Tensor) -> dict[str, Tensor]:
    """Values for the log of an objective, from samples (N, M), as means over targets:
    ``logit_max``, ``ess_ratio`` and ``log_z``.

    There is no warning: a small effective sample size is expected at the beginning of training.
    """
    logits = log_f.detach() - log_q.detach()
    count = max(len(logits), 1)
    return {
        "logit_max": logits.amax(1).sum() / count,
        "ess_ratio": ess_ratio(logits).sum() / count,
        "log_z": (logits.logsumexp(1) - math.log(logits.shape[1])).sum() / count,
    }


def ess_ratio(logits: Tensor) -> Tensor:
    """ESS / M (N,), in [1/M, 1], of logits f - log q (N, M), M ≥ 1; NaN if a logit is NaN."""
    return (2 * logits.logsumexp(1) - (2 * logits).logsumexp(1)).exp() / logits.shape[1]


def _column(y: Tensor, weights: Tensor) -> Tensor:
    """The weights as (N, M, 1), in the dtype of ``y``."""
    if y.dim() != 3 or y.shape[:2] != weights.shape:
        raise ValueError(
            f"y {tuple(y.shape)} and weights {tuple(weights.shape)} must be (N, M, D) and (N, M)."
        )
    return weights.to(y.dtype).unsqueeze(-1)
