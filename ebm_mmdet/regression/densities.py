"""Densities over the support of a codec: bounded mixtures, defensive proposals, wrapped noise."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from ..energy import Density, MixtureDensity
from ..energy.log_density import at_least_float32
from .target_codec import TargetCodec

__all__ = [
    "BoundedMixture",
    "DefensiveProposal",
    "WrappedMixture",
    "WrappedNoise",
    "on_circles",
]

# Laps around the circle to either side. With σ ≤ π, the largest that the heads allow, the mass
# beyond five half turns is below 1e-6.
_LAPS = 2


class WrappedMixture:
    """A mixture density whose periodic coordinates live on circles.

        q(z) = Σ_l q_R(z - 2π l),   l = -2..2 for each periodic coordinate

    ``log_prob`` of points inside the support; ``draw`` gives points inside it. Linear coordinates
    are unbounded. With P periodic coordinates the density has 5^P times as many components.

    Args:
        mixture: q_R, over standardised coordinates.
        codec: says which coordinates are periodic.
    """

    def __init__(self, mixture: MixtureDensity, codec: TargetCodec) -> None:
        self.mixture, self.codec = mixture, codec

    def __len__(self) -> int:
        return len(self.mixture)

    def detach(self) -> WrappedMixture:
        """The same densities, constant for gradients."""
        return WrappedMixture(self.mixture.detach(), self.codec)

    def select(self, index: Tensor) -> WrappedMixture:
        """The densities of some targets, ``index`` (n,) int64."""
        return WrappedMixture(self.mixture.select(index), self.codec)

    def draw(self, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw samples (N, S, D) without gradient, wrapped."""
        return self.codec.wrap(self.mixture.draw(num_samples, generator))

    def log_prob(self, y: Tensor) -> Tensor:
        """Log-density (N, S) of points y (N, S, D), in nats; of angles per radian."""
        return self._unrolled().log_prob(self.codec.wrap(y))

    def _unrolled(self) -> MixtureDensity:
        mixture, periodic = self.mixture, self.codec.periodic_mask
        laps = range(-_LAPS, _LAPS + 1)
        shifts = [laps if flag else (0,) for flag in periodic.tolist()]
        table = 2 * math.pi * mixture.means.new_tensor(list(itertools.product(*shifts)))
        # Means are wrapped first, without cutting their gradient.
        means = mixture.means + (self.codec.wrap(mixture.means) - mixture.means).detach()
        n, k, dim = means.shape
        count = len(table)
        return MixtureDensity(
            mixture.log_weights.repeat_interleave(count, dim=1),
            (means.unsqueeze(2) + table).view(n, k * count, dim),
            mixture.log_sigmas.repeat_interleave(count, dim=1),
        )


def on_circles(mixture: MixtureDensity, codec: TargetCodec) -> MixtureDensity | WrappedMixture:
    """The mixture itself, or wrapped if the codec has periodic coordinates."""
    return WrappedMixture(mixture, codec) if codec.is_periodic else mixture


class BoundedMixture:
    """A mixture density on the support of a codec: wrapped if periodic, else truncated.

        log q(z) = log q_R(z) - log ∫_support q_R,   -inf outside

    The mass of every Gaussian in a box is a product of differences of Φ, computed in logarithms.
    All targets share their random numbers, so a sample depends on its target and the seed only.

    Args:
        mixture: q_R, over standardised coordinates.
        codec: the support.
    """

    def __init__(self, mixture: MixtureDensity, codec: TargetCodec) -> None:
        self.mixture, self.codec = mixture, codec
        self._wrapped = on_circles(mixture, codec)
        sigmas = mixture.log_sigmas.exp()
        low, high = (codec.low - mixture.means) / sigmas, (codec.high - mixture.means) / sigmas
        log_mass = _log_normal_mass(low, high).masked_fill(codec.periodic_mask, 0).sum(-1)
        self._log_masses = mixture.log_weights + log_mass
        self._log_mass = self._log_masses.logsumexp(1, keepdim=True)
        self._low, self._high = low, high

    def __len__(self) -> int:
        return len(self.mixture)

    def select(self, index: Tensor) -> BoundedMixture:
        """The densities of some targets, ``index`` (n,) int64."""
        return BoundedMixture(self.mixture.select(index), self.codec)

    def log_prob(self, y: Tensor) -> Tensor:
        """Log-density (N, S) of points y (N, S, D), in nats; -inf outside the support."""
        log_q = self._wrapped.log_prob(y) - self._log_mass
        return log_q.masked_fill(~self.codec.contains(y), -torch.inf)

    def __call__(self, y: Tensor) -> Tensor:
        """The same as :meth:`log_prob`: the density is a ``LogDensityFn``."""
        return self.log_prob(y)

    @torch.no_grad()
    def draw(self, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw samples (N, S, D) without gradient, by inversion of the distribution function."""
        n, k, dim = self.mixture.means.shape
        device = self.mixture.means.device
        options: dict[str, Any] = {"generator": generator, "device": device, "dtype": torch.float64}
        level = torch.rand((1, num_samples), **options)
        unit = torch.rand((1, num_samples, dim), **options)
        shares = (self._log_masses - self._log_mass).double().exp()
        cumulated = shares.nan_to_num(1 / k).cumsum(1)
        component = torch.searchsorted(cumulated, level.expand(n, -1).contiguous(), right=True)
        component = component.clamp_(max=k - 1) + k * torch.arange(n, device=device)[:, None]

        def chosen(parameter: Tensor) -> Tensor:
            return parameter.reshape(n * k, dim)[component].double()

        low, high = chosen(self._low), chosen(self._high)
        periodic = self.codec.periodic_mask
        low, high = (
            bound.masked_fill(periodic, sign * torch.inf) for bound, sign in ((low, -1), (high, 1))
        )
        t = _truncated_normal(unit.expand(n, -1, -1), low, high)
        z = chosen(self.mixture.means) + chosen(self.mixture.log_sigmas.exp()) * t
        return self.codec.project(z.to(self.mixture.means.dtype))


class DefensiveProposal:
    """(1 - ε) q + ε U(support): bounded importance weights, and no mode out of reach.

    Exactly ε M of the M samples come from the uniform density, which has less variance than a
    random number of them. The weights f - log q' of the mixture stay unbiased.

    Args:
        proposal: q, inside the support.
        codec: the support.
        share: ε, in [0, 1].
    """

    def __init__(self, proposal: BoundedMixture, codec: TargetCodec, share: float = 0.1) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share={share} of uniform samples must be in [0, 1].")
        self.proposal, self.codec, self.share = proposal, codec, share

    def sample(
        self, num_samples: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw samples (N, S, D) and their log q' (N, S), both without gradient."""
        uniform = min(num_samples, math.ceil(self.share * num_samples))
        codec, n = self.codec, len(self.proposal)
        low, high = codec.low, codec.high
        unit = torch.rand(
            (1, uniform, codec.dim), generator=generator, device=low.device, dtype=low.dtype
        )
        points = [(low + unit * (high - low)).expand(n, -1, -1)]
        if uniform < num_samples:
            points.append(self.proposal.draw(num_samples - uniform, generator).to(low))
        z = torch.cat(points, dim=1)
        share = uniform / num_samples
        log_q = torch.full(z.shape[:2], -torch.inf, device=z.device, dtype=z.dtype)
        with torch.no_grad():
            if share < 1:
                log_q = self.proposal.log_prob(z) + math.log1p(-share)
            if share > 0:
                log_q = torch.logaddexp(log_q, math.log(share) - codec.log_volume)
        return z, log_q


class WrappedNoise:
    """A density of offsets whose periodic coordinates are wrapped to [-π, π).

        q(δ) = Σ_l q_R(δ - 2π l)

    Noise around an angle has to be compared as noise on the circle: on the line, where f repeats
    itself for ever, exp f has no integral.

    Args:
        noise: q_R, a density over standardised offsets, centred on zero.
        codec: says which coordinates are periodic.
    """

    def __init__(self, noise: Density, codec: TargetCodec) -> None:
        self.noise, self.codec = noise, codec

    @property
    def shared(self) -> bool:
        """Whether all targets get the same offsets."""
        return getattr(self.noise, "shared", False)

    @property
    def antithetic(self) -> bool:
        """Whether offsets come in pairs."""
        return getattr(self.noise, "antithetic", False)

    def scaled(self, beta: float) -> WrappedNoise:
        """The same density with every standard deviation multiplied by ``beta``."""
        return WrappedNoise(self.noise.scaled(beta), self.codec)

    def sample(
        self,
        n: int,
        num_samples: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, Tensor]:
        """Draw offsets (n, S, D) and their log-densities (n, S), as every density does."""
        offsets, _ = self.noise.sample(n, num_samples, generator, device, dtype)
        offsets = self.codec.difference(offsets, torch.zeros_like(offsets))
        return offsets, self.log_prob(offsets)

    def log_prob(self, offsets: Tensor) -> Tensor:
        """Log-density (...) of offsets (..., D), in nats."""
        offsets = offsets.to(at_least_float32(offsets.dtype))
        offsets = self.codec.difference(offsets, torch.zeros_like(offsets))
        laps = range(-_LAPS, _LAPS + 1)
        shifts = [laps if flag else (0,) for flag in self.codec.periodic_mask.tolist()]
        table = 2 * math.pi * offsets.new_tensor(list(itertools.product(*shifts)))
        return torch.stack([self.noise.log_prob(offsets + row) for row in table]).logsumexp(0)


def _log_normal_mass(low: Tensor, high: Tensor) -> Tensor:
    """Log(Φ(high) - Φ(low)), also far in the tails."""
    # In the upper half the complement is used, where the difference is not one of two ones.
    mirrored = low + high > 0
    low, high = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    lower, upper = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    return upper + torch.log1p(-(lower - upper).clamp(max=-1e-7).exp())


def _truncated_normal(unit: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Standard normal numbers in [low, high] from uniform ones in [0, 1), float64."""
    mirrored = low + high > 0
    a, b = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    # Φ by erfc, because torch's own has no tail below -8.
    lower, upper = (0.5 * torch.erfc(-bound / math.sqrt(2)) for bound in (a, b))
    t = torch.special.ndtri(lower + unit * (upper - lower))
    # Beyond 38 σ no mass is left in float64: the nearest end is the answer.
    t = t.where(t.isfinite(), b).clamp(a, b)
    return torch.where(mirrored, -t, t)
