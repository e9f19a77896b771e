"""A proposal for a density that came without one, found by tempering."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..energy import LogDensityFn, MixtureDensity
from ..energy.log_density import evaluate_finite
from ..energy.quadrature import map_in_chunks
from .densities import BoundedMixture, DefensiveProposal
from .target_codec import TargetCodec

__all__ = ["adaptive_proposal", "temperature_for_ess"]

# Components of the mixture, rounds of sampling, steps of expectation maximisation per round.
_COMPONENTS = 8
_ROUNDS = 4
_EM_STEPS = 6
# Each round moves the target p^β as far as this share of the samples still describes it.
_ESS_SHARE = 0.1
# A component is at least this wide, standardised, as in the learned proposals.
_MIN_SIGMA = 1e-3


@torch.no_grad()
def adaptive_proposal(
    log_density_fn: LogDensityFn,
    codec: TargetCodec,
    num_images: int,
    num_samples: int,
    generator: torch.Generator,
) -> MixtureDensity:
    """Fit a mixture of Gaussians to exp f of each image, without training.

        q_0 = U(support);  for t = 1..4:   z_m ~ q_{t-1},   w_m ∝ exp(β_t f(z_m)) / q_{t-1}(z_m)
                           q_t = mixture fitted to (z, w), with 10 % of U(support)

    β_t ≤ 1 is the largest for which the effective sample size is a tenth of M, so that the first
    rounds see a flattened density, and the last one usually sees the density itself. Like every
    proposal it may miss a mode: with M samples, one that holds less than some 1/M of the volume of
    the support. The effective sample size of the last round then does not show it.

    Source: population Monte Carlo (Cappé et al., 2004) with tempering.

    Args:
        log_density_fn: f of the N images, -inf outside the support.
        codec: the support.
        num_images: N.
        num_samples: M, samples per image and round.
        generator: source of randomness; all images share the numbers.

    Returns:
        N mixtures over standardised coordinates.
    """
    low, high = codec.low, codec.high
    unit = torch.rand((1, num_samples, codec.dim), generator=generator, device=low.device)
    z = (low + unit * (high - low)).expand(num_images, -1, -1)
    log_q = (-codec.log_volume).expand(num_images, num_samples)
    for _ in range(_ROUNDS):
        f = evaluate_finite(log_density_fn, z)
        f = f - f.amax(1, keepdim=True).nan_to_num(neginf=0.0)
        beta = temperature_for_ess(f, log_q, _ESS_SHARE)
        weights = (beta * f - log_q).softmax(1).nan_to_num(1 / num_samples)
        mixture = _fit_all(z, weights, codec)
        z, log_q = DefensiveProposal(BoundedMixture(mixture, codec), codec).sample(
            num_samples, generator
        )
    return mixture


def temperature_for_ess(f: Tensor, log_q: Tensor, share: float) -> Tensor:
    """The largest β (N, 1) in [0, 1] for which exp(β f) / q has an ESS of ``share`` M, or more.

    Args:
        f: (N, M) log-densities, at most 0; -inf where there is none.
        log_q: (N, M).
        share: smallest ESS / M.
    """
    f = f.clamp(min=-1e30)  # -inf times 0 is NaN
    low, high = torch.zeros_like(f[:, :1]), torch.ones_like(f[:, :1])
    beta = high
    for _ in range(20):
        logits = beta * f - log_q
        ess = (2 * logits.logsumexp(1, True) - (2 * logits).logsumexp(1, True)).exp()
        enough = ess >= share * f.shape[1]
        low, high = beta.where(enough, low), high.where(enough, beta)
        # β = 1 is tried first, and kept where it is enough.
        beta = torch.where(low == 1, low, 0.5 * (low + high))
    return low


def _fit_all(z: Tensor, weights: Tensor, codec: TargetCodec) -> MixtureDensity:
    """:func:`_fit`, some images at a time, because its temporaries are (N, K, M, D)."""
    fits = map_in_chunks(
        lambda part: _fit(z[part], weights[part], codec),
        max(len(z), 1),  # of no image, one empty part
        _COMPONENTS * z.shape[1] * z.shape[2],
    )
    parameters = [(fit.log_weights, fit.means, fit.log_sigmas) for fit in fits]
    return MixtureDensity(*(torch.cat(values) for values in zip(*parameters)))


def _fit(z: Tensor, weights: Tensor, codec: TargetCodec) -> MixtureDensity:
    """Expectation maximisation on weighted points z (N, M, D), weights (N, M)."""
    n, _, dim = z.shape
    # Systematic resampling picks the first means without random numbers.
    levels = (torch.arange(_COMPONENTS, device=z.device) + 0.5) / _COMPONENTS
    cumulated = weights.cumsum(1)
    levels = levels * cumulated[:, -1:]
    first = torch.searchsorted(cumulated, levels.contiguous()).clamp_(max=z.shape[1] - 1)
    means = z.gather(1, first.unsqueeze(2).expand(-1, -1, dim))
    centre = (weights.unsqueeze(2) * z).sum(1, keepdim=True)
    spread = (weights.unsqueeze(2) * codec.difference(z, centre).square()).sum(1, keepdim=True)
    variances = (spread / _COMPONENTS ** (2 / dim)).expand(-1, _COMPONENTS, -1)
    shares = z.new_full((n, _COMPONENTS), 1 / _COMPONENTS)
    for _ in range(_EM_STEPS):
        variances = variances.clamp(min=_MIN_SIGMA**2)
        log_r = shares.log().unsqueeze(2) - 0.5 * variances.log().sum(2, keepdim=True)
        differences = codec.difference(z.unsqueeze(1), means.unsqueeze(2))  # (N, K, M, D)
        log_r = log_r - 0.5 * (differences.square() / variances.unsqueeze(2)).sum(3)
        r = log_r.softmax(1) * weights.unsqueeze(1)
        # A thousandth of the mass keeps a component that lost its points defined.
        mass = r.sum(2, keepdim=True) + 1e-6
        shift = (r.unsqueeze(3) * differences).sum(2) / mass
        variances = (r.unsqueeze(3) * differences.square()).sum(2) / mass - shift.square()
        means = means + shift
        shares = mass.squeeze(2) / mass.sum((1, 2)).unsqueeze(1)
    # Slightly wider than the fit: the weights of a proposal with thin tails have a large variance.
    log_sigmas = 0.5 * variances.clamp(min=_MIN_SIGMA**2).log() + math.log(1.2)
    return MixtureDensity(shares.log(), codec.project(means), log_sigmas)
