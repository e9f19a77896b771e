"""Distributions of offsets around a target, from which the training objectives draw points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .log_density import at_least_float32

__all__ = ["GaussianMixtureNoise"]


class GaussianMixtureNoise:
    """Zero-centred, equally weighted mixture of K diagonal Gaussians over R^D.

        q(δ) = 1/K Σ_k Π_d N(δ_d; 0, σ_kd²)

    All D coordinates of a sample come from the same component. The density is that of encoded
    coordinates, without a Jacobian to pixels or metres.

    This is a plain object and not an ``nn.Module``: it has nothing to train, and a checkpoint must
    not override what a config states. Its few numbers are moved to the device and dtype of each
    call.

    Source: Gustafsson et al., "How to Train Your Energy-Based Model for Regression", BMVC 2020
    (arXiv:2005.01698), noise distribution of NCE; for boxes σ = (0.075, 0.15, 0.3).

    Args:
        sigmas: standard deviations, either K numbers shared by all coordinates (``dim`` is then
            required) or K rows of D numbers.
        dim: D, the number of encoded coordinates.
        shared: draw one set of offsets and use it for all targets, as the released code does. This
            is cheap, and unbiased for every target, but the errors of all targets are then
            correlated.
        antithetic: draw offsets in pairs δ, -δ: offsets s and s + ⌈S/2⌉ are a pair, and for odd S
            the offset ⌈S/2⌉ - 1 has no partner. Over pairs, odd functions average to zero exactly.

    Raises:
        ValueError: a σ is not positive and finite, or D is unknown, or ``dim`` contradicts it.
    """

    def __init__(
        self,
        sigmas: Sequence[float] | Sequence[Sequence[float]] | Tensor,
        dim: int | None = None,
        shared: bool = False,
        antithetic: bool = False,
    ) -> None:
        table = torch.as_tensor(sigmas, dtype=torch.float64, device="cpu")
        if table.dim() == 1 and dim is not None:
            table = table[:, None].repeat(1, dim)
        if table.dim() != 2 or table.numel() == 0 or dim not in (None, table.shape[1]):
            raise ValueError(
                f"sigmas of shape {tuple(table.shape)} with dim={dim} do not describe a mixture; "
                "give K numbers and dim=D, or K rows of D numbers."
            )
        if not ((table > 0) & table.isfinite()).all():
            raise ValueError(
                f"every sigma must be positive and finite, got {table.tolist()}; "
                "a coordinate without noise has no density: drop it from the encoding instead."
            )
        self.sigmas = table
        self.shared, self.antithetic = shared, antithetic

    @property
    def dim(self) -> int:
        """D, the number of encoded coordinates."""
        return self.sigmas.shape[1]

    def __repr__(self) -> str:
        flags = "".join(f", {name}=True" for name in ("shared", "antithetic") if vars(self)[name])
        return f"{type(self).__name__}(sigmas={self.sigmas.tolist()}{flags})"

    def scaled(self, beta: float) -> GaussianMixtureNoise:
        """The same density with every standard deviation (not variance) multiplied by ``beta``.

        Its samples are independent, even if those of this density are shared or antithetic.
        """
        return GaussianMixtureNoise(self.sigmas * beta)

    def sample(
        self,
        n: int,
        num_samples: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, Tensor]:
        """Draw offsets for each of n targets; independent ones by default.

        Args:
            n: number of targets, may be 0.
            num_samples: S, samples per target, may be 0.
            generator: source of randomness, on the device of the result.
            device: of the result; that of ``generator`` by default, else the CPU.
            dtype: floating-point type of the result.

        Returns:
            ``offsets (n, S, D)`` and ``log_prob (n, S)``; where shared, views that repeat one row.
        """
        if device is None:
            device = generator.device if generator is not None else "cpu"
        sigmas = self.sigmas.to(device=device, dtype=dtype)
        options: dict[str, Any] = {"generator": generator, "device": device}
        rows = 1 if self.shared else n
        drawn = (num_samples + 1) // 2 if self.antithetic else num_samples
        component = torch.randint(len(sigmas), (rows, drawn), **options)
        offsets = torch.randn((rows, drawn, self.dim), dtype=dtype, **options)
        offsets = offsets * sigmas[component]
        log_prob = self.log_prob(offsets)
        if self.antithetic:
            mirrored = num_samples - drawn
            offsets = torch.cat([offsets, -offsets[:, :mirrored]], dim=1)
            log_prob = torch.cat([log_prob, log_prob[:, :mirrored]], dim=1)
        return offsets.expand(n, -1, -1), log_prob.expand(n, -1)

    def log_prob(self, offsets: Tensor) -> Tensor:
        """Log-density (...) of offsets (..., D), in nats; float32 or better.

        log q(δ) = logsumexp_k( -½ Σ_d (δ_d/σ_kd)² - Σ_d log σ_kd ) - D/2 log 2π - log K

        Densities themselves are never formed: in R^7 they leave the range of float32.
        """
        offsets = offsets.to(at_least_float32(offsets.dtype))
        # Components come first, since a reduction over a short last dimension is slow.
        sigmas = self.sigmas.to(offsets).view(-1, *[1] * (offsets.dim() - 1), self.dim)
        z = offsets / sigmas
        log_components = -0.5 * z.square().sum(-1) - sigmas.log().sum(-1)
        constant = 0.5 * self.dim * math.log(2 * math.pi) + math.log(len(sigmas))
        log_sum = log_components[0] if len(sigmas) == 1 else log_components.logsumexp(0)
        return log_sum - constant
