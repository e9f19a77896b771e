"""Regression by a mixture density network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from torch import Tensor

from ...energy import MixtureDensity, MixtureDensityHead
from ..data_sample import RegressionDataSample
from ..densities import BoundedMixture, WrappedMixture, on_circles
from ..posterior import Posterior
from .regression_head import PredictionSettings, RegressionHead

__all__ = ["LOG_SIGMA_RANGE", "MixtureRegressionHead"]

# Of standardised labels. Above, a Gaussian is flat over any range, and would be flat on a circle.
LOG_SIGMA_RANGE = (-7.0, math.log(math.pi))


@MODELS.register_module()
class MixtureRegressionHead(RegressionHead):
    """A mixture of K diagonal Gaussians, trained by maximum likelihood; K = 1 is the Gaussian.

        L = -log q(y)

    Training uses the density over R^D; predictions and likelihoods use the same density truncated
    to the declared ranges, so that they can be compared with those of an energy. Periodic
    coordinates are wrapped in both.

    Args:
        in_channels: C, width of the pooled features.
        codec: config of the codec.
        num_components: K.
        hidden: width of the hidden layers; C by default.
        log_sigma_range: limits of log σ of standardised labels.
        **kwargs: those of :class:`.RegressionHead`.
    """

    def __init__(
        self,
        in_channels: int,
        codec: dict,
        num_components: int = 1,
        hidden: int | None = None,
        log_sigma_range: tuple[float, float] = LOG_SIGMA_RANGE,
        **kwargs,
    ) -> None:
        super().__init__(in_channels, codec, **kwargs)
        self.mixture = MixtureDensityHead(
            in_channels, self.codec.dim, num_components, hidden, log_sigma_range=log_sigma_range
        )

    def density(self, h: Tensor) -> MixtureDensity | WrappedMixture:
        """The densities q of N images with features h (N, C), over standardised labels."""
        return on_circles(self.mixture(h), self.codec)

    def loss(self, h: Tensor, data_samples: Sequence[RegressionDataSample]) -> dict[str, Tensor]:
        """``loss_nll``, the mean of -log q(y) in nats, standardised; 0 for no image."""
        targets = self.encoded_targets(data_samples)
        log_q = self.density(h).log_prob(targets.unsqueeze(1))
        return {"loss_nll": -self.loss_weight * log_q.sum() / max(len(h), 1)}

    def posterior(self, h: Tensor, settings: PredictionSettings) -> Posterior:
        """M samples of the truncated density, with equal weights, and the means as modes."""
        mixture = self.mixture(h)
        density = BoundedMixture(mixture, self.codec)
        points = density.draw(settings.num_samples, settings.generator(h.device))
        weights = torch.full(points.shape[:2], 1 / points.shape[1], device=h.device)
        peaks = self.codec.project(mixture.means)
        points = torch.cat([points, peaks], dim=1)
        return Posterior(
            points,
            torch.cat([weights, weights.new_zeros(peaks.shape[:2])], dim=1),
            density,
            density.log_prob(points),
            points.new_zeros(len(points)),
            None,
            self.codec,
        )
