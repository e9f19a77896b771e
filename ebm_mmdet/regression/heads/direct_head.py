"""Regression of a number without a density."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from mmdet.registry import MODELS
from torch import Tensor

from ..data_sample import RegressionDataSample
from .regression_head import PredictionSettings, RegressionHead, _samples, perceptron

__all__ = ["DirectRegressionHead"]


@MODELS.register_module()
class DirectRegressionHead(RegressionHead):
    """Two layers and a squared or absolute error, of standardised labels.

        L = Σ_d (ŷ_d - y_d)²    or    Σ_d |ŷ_d - y_d|

    An angle is predicted as (cos, sin), and the loss is that of these two numbers. Predictions have
    a ``pred_target`` and nothing else, because there is no density.

    Args:
        in_channels: C, width of the pooled features.
        codec: config of the codec.
        loss: ``"l2"`` or ``"l1"``.
        hidden: width of the hidden layer; C by default.
        **kwargs: those of :class:`.RegressionHead`.

    Raises:
        ValueError: the loss is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        codec: dict,
        loss: Literal["l2", "l1"] = "l2",
        hidden: int | None = None,
        **kwargs,
    ) -> None:
        super().__init__(in_channels, codec, **kwargs)
        if loss not in ("l2", "l1"):
            raise ValueError(f"loss={loss!r} is unknown; use 'l2' or 'l1'.")
        self.loss_type = loss
        self.layers = perceptron(in_channels, hidden or in_channels, self.codec.embedded_dim)

    def loss(self, h: Tensor, data_samples: Sequence[RegressionDataSample]) -> dict[str, Tensor]:
        """``loss_<type>``, averaged over the images; 0 for none."""
        target = self.codec.embed(self.codec.encode(self.labels(data_samples)))
        error = self.layers(h).float() - target
        errors = error.square() if self.loss_type == "l2" else error.abs()
        total = self.loss_weight * errors.sum() / max(len(h), 1)
        return {f"loss_{self.loss_type}": total}

    @torch.no_grad()
    def predict(
        self,
        h: Tensor,
        data_samples: Sequence[RegressionDataSample] | None = None,
        settings: PredictionSettings | None = None,
    ) -> list[RegressionDataSample]:
        """As in the base class, with ``pred_target`` only; ``settings`` are not read."""
        samples = _samples(h, data_samples)
        point = self.codec.decode(self.codec.unembed(self.layers(h).float()))
        for sample, target in zip(samples, point):
            sample.pred_target = target
        return samples
