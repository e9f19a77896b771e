"""Mixture density networks of the 1D study, many independent models at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ebm_mmdet.energy import MixtureDensity
from ebm_mmdet.energy.contracts import LogDensityFn
from ebm_mmdet.energy.recoverable_clamp import recoverable_clamp

from .network import HIDDEN, Ensemble
from .seeds import generator

__all__ = ["MixtureEnsemble"]


class MixtureEnsemble(Ensemble):
    """E mixture density networks q_e(y | x) of K Gaussians, on given features or their own.

    Three perceptrons (Linear 10→10, ReLU, Linear 10→K) give log weights, means and log σ of
    standardised targets, as in :class:`MixtureDensityHead`, including spread initial means. In a
    stand-alone network, the x branch of the energy network comes before them.

    Args:
        models: indices of the models.
        seed: seed of the run.
        num_components: number of Gaussians K.
        y: (n,) training targets, whose mean and standard deviation set the scale.
        standalone: whether the network has its own x branch.
    """

    def __init__(
        self,
        models: Sequence[int],
        seed: int,
        num_components: int,
        y: Tensor,
        standalone: bool = False,
    ) -> None:
        k = num_components
        layers = {"x1": (1, HIDDEN), "x2": (HIDDEN, HIDDEN)} if standalone else {}
        for branch in ("logits", "means", "log_sigmas"):
            layers |= {f"{branch}1": (HIDDEN, HIDDEN), f"{branch}2": (HIDDEN, k)}
        super().__init__(models, seed, layers, "init of the mixture")
        self.target_mean, self.target_std = float(y.mean()), float(y.std())
        quantiles = torch.erfinv((2 * torch.arange(k) + 1) / k - 1) * 2**0.5
        orders = [
            torch.randperm(k, generator=generator(seed, "order of the mixture", model))
            for model in models
        ]
        with torch.no_grad():
            self.means2_bias.copy_(torch.stack([quantiles[order] for order in orders]))

    def from_features(self, h: Tensor) -> MixtureDensity:
        """The densities (N = E·B) for features h (E, B, 10)."""
        logits, means, log_sigmas = (
            self.linear(f"{branch}2", self.linear(f"{branch}1", h).relu()).flatten(0, 1)
            for branch in ("logits", "means", "log_sigmas")
        )
        means = self.target_mean + self.target_std * means
        # log σ of standardised targets has the limits of MixtureDensityHead.
        log_sigmas = recoverable_clamp(log_sigmas, -7, 7) + math.log(self.target_std)
        return MixtureDensity(logits.log_softmax(1), means.unsqueeze(-1), log_sigmas.unsqueeze(-1))

    def forward(self, x: Tensor) -> MixtureDensity:
        """The densities (N = E·B) for inputs x (E, B), of a stand-alone network."""
        h = self.linear("x2", self.linear("x1", x.unsqueeze(-1)).relu()).relu()
        return self.from_features(h)

    def log_density_fn(self, x: Tensor, twice_differentiable: bool = False) -> LogDensityFn:
        """Log q bound to x, a normalised f; for a stand-alone network."""
        return self(x).log_prob
