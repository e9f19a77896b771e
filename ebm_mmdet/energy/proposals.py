"""Learned proposals q(y | x; φ), from which points are drawn in training and at test time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .float32_linear import Float32Linear
from .log_density import at_least_float32
from .recoverable_clamp import recoverable_clamp

__all__ = ["MixtureDensity", "MixtureDensityHead"]


# Targets are taken in blocks whose temporaries (K, n, S) have no more elements than this, so that
# they stay in the cache of a CPU.
_MAX_ELEMENTS = 2**19


class MixtureDensity:
    """A mixture of K diagonal Gaussians over R^D for each of N targets.

        q_n(y) = Σ_k π_nk Π_d N(y_d; μ_nkd, σ_nkd²)

    Samples never carry a gradient (they are not reparameterised), whereas ``log_prob`` is
    differentiable in the parameters; :func:`proposal_kl_loss` explains why that matters.

    Args:
        log_weights: (N, K) log π, normalised over K.
        means: (N, K, D) μ, in the coordinates of y.
        log_sigmas: (N, K, D) log σ.

    Raises:
        ValueError: shapes do not agree.
    """

    def __init__(self, log_weights: Tensor, means: Tensor, log_sigmas: Tensor) -> None:
        if (
            means.dim() != 3
            or means.shape != log_sigmas.shape
            or means.shape[:2] != log_weights.shape
            or means.shape[1] == 0
        ):
            raise ValueError(
                f"log_weights {tuple(log_weights.shape)}, means {tuple(means.shape)} and "
                f"log_sigmas {tuple(log_sigmas.shape)} must be (N, K), (N, K, D) and (N, K, D)."
            )
        self.log_weights, self.means, self.log_sigmas = log_weights, means, log_sigmas

    def __len__(self) -> int:
        return len(self.means)

    @property
    def mean(self) -> Tensor:
        """(N, D) Σ_k π_k μ_k."""
        return (self.log_weights.exp().unsqueeze(-1) * self.means).sum(1)

    def detach(self) -> MixtureDensity:
        """The same densities, constant for gradients."""
        return MixtureDensity(
            self.log_weights.detach(), self.means.detach(), self.log_sigmas.detach()
        )

    def select(self, index: Tensor | slice) -> MixtureDensity:
        """The densities of some targets, ``index`` (n,) int64, (N,) bool or a slice."""
        return MixtureDensity(self.log_weights[index], self.means[index], self.log_sigmas[index])

    @torch.no_grad()
    def draw(self, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw samples (N, S, D) without gradient: first a component, then a point from it.

        Args:
            num_samples: S.
            generator: source of randomness, on the device of the parameters.
        """
        n, k, dim = self.means.shape
        options: dict[str, Any] = {
            "generator": generator,
            "device": self.means.device,
            "dtype": self.means.dtype,
        }
        level = torch.rand((n, num_samples), **options)
        component = torch.searchsorted(self.log_weights.exp().cumsum(1), level, right=True)
        # Rounding may leave the last cumulative weight below the level.
        component = component.clamp_(max=k - 1).add_(
            k * torch.arange(n, device=level.device)[:, None]
        )
        mean = self.means.reshape(n * k, dim)[component]
        sigma = self.log_sigmas.reshape(n * k, dim).exp()[component]
        return torch.addcmul(mean, sigma, torch.randn((n, num_samples, dim), **options))

    @torch.no_grad()
    def sample(
        self, num_samples: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw samples (N, S, D) and their log q (N, S), both without gradient; see `draw`."""
        y = self.draw(num_samples, generator)
        return y, self.log_prob(y)

    def log_prob(self, y: Tensor) -> Tensor:
        """Log-density (N, S) of points y (N, S, D), in nats; float32 or better.

        log q(y) = logsumexp_k( log π_k - ½ Σ_d ((y_d - μ_kd)/σ_kd)² - Σ_d log σ_kd ) - D/2 log 2π

        If y requires a gradient, the result is differentiable in y and in the parameters, any
        number of times; otherwise it is differentiable in the parameters, once.
        """
        if y.dim() != 3 or y.shape[0] != len(self) or y.shape[2] != self.means.shape[2]:
            raise ValueError(
                f"y has shape {tuple(y.shape)}; expected (N, S, D) with N={len(self)} and "
                f"D={self.means.shape[2]}."
            )
        y = y.to(torch.promote_types(at_least_float32(y.dtype), self.means.dtype))
        rows = max(1, _MAX_ELEMENTS // max(1, y.shape[1] * self.means.shape[1]))
        if len(self) <= rows:
            return self._log_prob(y)
        parts = [slice(i, i + rows) for i in range(0, len(self), rows)]
        return torch.cat([self.select(part)._log_prob(y[part]) for part in parts])

    def _log_prob(self, y: Tensor) -> Tensor:
        # Components first and one coordinate at a time: no temporary is larger than (K, N, S), and
        # nothing is reduced over a short last dimension, which is slow.
        scales = (-self.log_sigmas).exp() * math.sqrt(0.5)
        means, scales = (p.permute(2, 1, 0).unsqueeze(-1) for p in (self.means, scales))
        log_factors = (self.log_weights - self.log_sigmas.sum(-1)).mT.unsqueeze(-1)
        constant = 0.5 * y.shape[2] * math.log(2 * math.pi)
        if not y.requires_grad:
            parameters = (p.to(y.dtype) for p in (log_factors, means, scales))
            log_sum: Tensor = _LogSumOfGaussians.apply(*parameters, y)  # type: ignore[no-untyped-call]
            return log_sum - constant
        log_components = log_factors
        for coordinate, mean, scale in zip(y.unbind(-1), means, scales):
            log_components = log_components - ((coordinate - mean) * scale).square()
        return log_components.logsumexp(0) - constant


class _LogSumOfGaussians(torch.autograd.Function):
    """logsumexp_k( a_kn - Σ_d ((y_nsd - μ_dkn) c_dkn)² ), with gradients in a, μ and c only.

    Three times as fast as autograd, which writes the result of every step to new memory. Shapes:
    a (K, N, 1), μ and c (D, K, N, 1), y (N, S, D); the result is (N, S).
    """

    @staticmethod
    def forward(ctx: Any, log_factors: Tensor, means: Tensor, scales: Tensor, y: Tensor) -> Tensor:
        terms = log_factors.expand(*log_factors.shape[:2], y.shape[1])
        for coordinate, mean, scale in zip(y.unbind(-1), means, scales):
            z = torch.sub(coordinate, mean).mul_(scale)
            terms = torch.addcmul(terms, z, z, value=-1)
        # As logsumexp does: where all terms are -inf, so is the result.
        largest = terms.amax(0)
        largest.masked_fill_(largest == -torch.inf, 0)
        terms = (terms - largest).exp_()
        total = terms.sum(0)
        ctx.save_for_backward(terms, total, means, scales, y)
        return largest + total.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        terms, total, means, scales, y = ctx.saved_tensors
        # Nothing is learned from a point whose density is zero in this precision.
        shares = terms * (grad / total).where(total > 0, 0)
        grad_means, grad_scales = torch.empty_like(means), torch.empty_like(scales)
        for d, coordinate in enumerate(y.unbind(-1)):
            difference = torch.sub(coordinate, means[d])
            product = shares * difference
            grad_means[d] = 2 * scales[d].square() * product.sum(-1, keepdim=True)
            grad_scales[d] = -2 * scales[d] * product.mul_(difference).sum(-1, keepdim=True)
        return shares.sum(-1, keepdim=True), grad_means, grad_scales, None


class MixtureDensityHead(nn.Module):
    """Mixture density network: features -> :class:`MixtureDensity`.

    Three two-layer perceptrons (Linear, ReLU, Linear) predict log weights, means and log σ. They
    work on standardised targets t = (y - target_mean) / target_std; the density returned is that of
    y,

        log q(y) = log q_t(t) - Σ_d log target_std_d

    so it can be compared between choices of the scale. The released code needs a first epoch of
    maximum likelihood to train stably. It differs in this: here everything stays in logarithms,
    targets are standardised, log σ has limits, and initial means are spread (normal quantiles,
    shuffled per coordinate) instead of all being near zero.

    Detach the features if the proposal must not train the backbone. With J_KL it never may.

    Source: Gustafsson et al., "Learning Proposals for Practical Energy-Based Regression", AISTATS
    2022 (arXiv:2110.11948); structure of the network as released.

    Args:
        in_features: H, width of the features.
        dim: D, encoded coordinates.
        num_components: K.
        hidden: width of the hidden layers; H by default.
        target_mean: a number or (D,), mean of the targets; kept as a buffer.
        target_std: a number or (D,), standard deviation of the targets; kept as a buffer.
        log_sigma_range: limits of log σ of standardised targets, see :func:`.recoverable_clamp`.
            The lower one is the variance floor: without it, the likelihood is unbounded if a
            component is centred on a target.

    Raises:
        ValueError: a size is below 1, a scale is not positive and finite, or the range is empty.
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        in_features: int,
        dim: int,
        num_components: int,
        hidden: int | None = None,
        target_mean: float | Sequence[float] | Tensor = 0.0,
        target_std: float | Sequence[float] | Tensor = 1.0,
        log_sigma_range: tuple[float, float] = (-7.0, 7.0),
    ) -> None:
        super().__init__()
        hidden = in_features if hidden is None else hidden
        if min(in_features, dim, num_components, hidden) < 1:
            raise ValueError(
                f"in_features={in_features}, dim={dim}, num_components={num_components} and "
                f"hidden={hidden} must be 1 or more."
            )
        if not log_sigma_range[0] < log_sigma_range[1]:
            raise ValueError(f"log_sigma_range={log_sigma_range} is empty; give (low, high).")
        self.dim, self.num_components = dim, num_components
        self.log_sigma_range = tuple(log_sigma_range)
        mean, std = (_row(value, dim) for value in (target_mean, target_std))
        if not (mean.isfinite() & std.isfinite() & (std > 0)).all():
            raise ValueError(
                f"target_mean={mean.tolist()} and target_std={std.tolist()} must be finite, and "
                "the latter positive; a coordinate that never varies needs no proposal."
            )
        self.register_buffer("target_mean", mean)
        self.register_buffer("target_std", std)

        self.weights = _perceptron(in_features, hidden, num_components)
        self.means = _perceptron(in_features, hidden, num_components * dim)
        self.log_sigmas = _perceptron(in_features, hidden, num_components * dim)
        self._spread_means()

    @torch.no_grad()
    def _spread_means(self) -> None:
        """Bias of the means: every coordinate has one component in each K-quantile of N(0, 1)."""
        k = self.num_components
        quantiles = math.sqrt(2) * torch.erfinv((2 * torch.arange(k) + 1) / k - 1)
        columns = [quantiles[torch.randperm(k)] for _ in range(self.dim)]
        self.means.get_parameter("2.bias").copy_(torch.stack(columns, dim=1).flatten())

    def forward(self, x: Tensor) -> MixtureDensity:
        """Predict the density of each target from features x (N, H); float32 or better."""
        shape = (len(x), self.num_components, self.dim)
        dtype = at_least_float32(self.target_std.dtype)
        logits, means, log_sigmas = (
            branch(x).to(dtype) for branch in (self.weights, self.means, self.log_sigmas)
        )
        # A model in half precision keeps its buffers in it.
        mean, std = self.target_mean.to(dtype), self.target_std.to(dtype)
        return MixtureDensity(
            logits.log_softmax(1),
            mean + std * means.view(shape),
            std.log() + recoverable_clamp(log_sigmas.view(shape), *self.log_sigma_range),
        )


def _perceptron(in_features: int, hidden: int, out_features: int) -> nn.Sequential:
    return nn.Sequential(
        Float32Linear(in_features, hidden), nn.ReLU(), Float32Linear(hidden, out_features)
    )


def _row(value: float | Sequence[float] | Tensor, dim: int) -> Tensor:
    row = torch.as_tensor(value, dtype=torch.get_default_dtype())
    if row.dim() > 1 or (row.dim() == 1 and len(row) != dim):
        raise ValueError(f"{value} must be one number, or one for each of {dim} coordinates.")
    return row.expand(dim).clone()
