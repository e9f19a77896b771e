"""Regression by classification into bins of the range."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from torch import Tensor
from torch.nn import functional

from ..data_sample import RegressionDataSample
from ..posterior import Posterior
from ..target_codec import TargetCodec
from .regression_head import PredictionSettings, RegressionHead, perceptron

__all__ = ["Histograms", "SoftmaxRegressionHead"]


class Histograms:
    """Piecewise constant densities of N images over the support, independent per coordinate.

        log p(z) = Σ_d log P_d(bin of z_d) - log width_d,   -inf outside

    Args:
        log_probs: (N, D, B) log-probabilities of B equal bins of each range.
        codec: the support.
    """

    def __init__(self, log_probs: Tensor, codec: TargetCodec) -> None:
        self.log_probs, self.codec = log_probs, codec
        self._width = (codec.high - codec.low) / log_probs.shape[2]

    def bins(self, z: Tensor) -> Tensor:
        """The bins (..., D) int64 of points z (..., D); the nearest one outside the support."""
        z = self.codec.wrap(z)
        index = ((z - self.codec.low) / self._width).floor().nan_to_num(0)
        return index.clamp(0, self.log_probs.shape[2] - 1).long()

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density (N, S) at points z (N, S, D), in nats."""
        chosen = self.log_probs.gather(2, self.bins(z).mT)
        log_p = chosen.sum(1) - self._width.log().sum()
        return log_p.masked_fill(~self.codec.contains(z), -torch.inf)

    def __call__(self, z: Tensor) -> Tensor:
        """The same as :meth:`log_prob`: the density is a ``LogDensityFn``."""
        return self.log_prob(z)

    def centres(self) -> Tensor:
        """(D, B) centres of the bins."""
        count = self.log_probs.shape[2]
        steps = torch.arange(count, device=self._width.device) + 0.5
        return self.codec.low[:, None] + steps * self._width[:, None]

    def draw(self, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw samples (N, S, D); all images share their random numbers."""
        n, dim, count = self.log_probs.shape
        unit = torch.rand(
            (1, dim, num_samples),
            generator=generator,
            dtype=torch.float64,
            device=self._width.device,
        ).expand(n, -1, -1)
        probs = self.log_probs.double().exp()
        upper = probs.cumsum(-1)
        unit = (unit * upper[..., -1:]).contiguous()
        index = torch.searchsorted(upper, unit, right=True).clamp_(max=count - 1)
        chosen = probs.gather(2, index)
        inside = 1 - (upper.gather(2, index) - unit) / chosen
        z = index + inside.nan_to_num(0.5).clamp(0, 1)
        z = self.codec.low[:, None] + z.to(self._width) * self._width[:, None]
        return self.codec.project(z.mT)


@MODELS.register_module()
class SoftmaxRegressionHead(RegressionHead):
    """Classification into B equal bins of each range.

        L = Σ_d -log P_d(bin of y_d) + w Σ_d (E_P[y_d] - y_d)²

    The density is constant inside a bin, so likelihoods can be compared with those of the other
    heads. Coordinates are independent given the image. The second term acts on the expectation over
    the centres of the bins; that of an angle acts on its cosine and sine.

    Source: the baselines of Gustafsson et al., ECCV 2020 (arXiv:1909.12297).

    Args:
        in_channels: C, width of the pooled features.
        codec: config of the codec.
        num_bins: B.
        expectation_weight: w, not negative; 0 is plain cross-entropy.
        hidden: width of the hidden layer; C by default.
        **kwargs: those of :class:`.RegressionHead`.

    Raises:
        ValueError: there are fewer than two bins, or the weight is negative.
    """

    def __init__(
        self,
        in_channels: int,
        codec: dict,
        num_bins: int = 100,
        expectation_weight: float = 0.0,
        hidden: int | None = None,
        **kwargs,
    ) -> None:
        super().__init__(in_channels, codec, **kwargs)
        if num_bins < 2 or expectation_weight < 0:
            raise ValueError(
                f"num_bins={num_bins} must be 2 or more, and expectation_weight="
                f"{expectation_weight} must not be negative."
            )
        self.num_bins, self.expectation_weight = num_bins, expectation_weight
        self.layers = perceptron(in_channels, hidden or in_channels, self.codec.dim * num_bins)

    def density(self, h: Tensor) -> Histograms:
        """The densities of N images with features h (N, C), over standardised labels."""
        logits = self.layers(h).float().view(len(h), self.codec.dim, self.num_bins)
        return Histograms(logits.log_softmax(-1), self.codec)

    def loss(self, h: Tensor, data_samples: Sequence[RegressionDataSample]) -> dict[str, Tensor]:
        """``loss_ce`` and, with a weight, ``loss_expectation``; means over images, 0 for none."""
        targets = self.encoded_targets(data_samples)
        density, count = self.density(h), max(len(h), 1)
        bins = density.bins(targets)
        nll = functional.nll_loss(density.log_probs.flatten(0, 1), bins.flatten(), reduction="sum")
        losses = {"loss_ce": self.loss_weight * nll / count}
        if self.expectation_weight:
            # Columns are those of ``codec.embed``: cosines and sines of angles.
            probs = density.log_probs.exp()[:, self.codec.embed_order]
            values = self.codec.embed(density.centres().T)
            expected = (probs * values.T).sum(-1)
            error = (expected - self.codec.embed(targets)).square().sum()
            weight = self.loss_weight * self.expectation_weight
            losses["loss_expectation"] = weight * error / count
        return losses

    def posterior(self, h: Tensor, settings: PredictionSettings) -> Posterior:
        """M samples of the density, with equal weights, and the centre of the best bins."""
        density = self.density(h)
        points = density.draw(settings.num_samples, settings.generator(h.device))
        weights = torch.full(points.shape[:2], 1 / points.shape[1], device=h.device)
        best = density.log_probs.argmax(2)  # (N, D)
        peak = density.centres().expand(len(h), -1, -1).gather(2, best.unsqueeze(2)).mT
        # First, because the mode is the first of equally likely points.
        points = torch.cat([peak, points], dim=1)
        return Posterior(
            points,
            torch.cat([weights.new_zeros(len(h), 1), weights], dim=1),
            density,
            density.log_prob(points),
            points.new_zeros(len(points)),
            None,
            self.codec,
            climb_steps=0,
        )
