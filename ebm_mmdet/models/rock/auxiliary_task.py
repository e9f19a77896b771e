"""What the tasks of a ROCK block have in common."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.structures import DetDataSample
from mmdet.utils import reduce_mean
from mmengine.model import BaseModule
from torch import Tensor, nn

from .layers import KAIMING, conv_norm_relu

__all__ = ["AuxiliaryTask", "mean_of_existing"]


class AuxiliaryTask(BaseModule):
    """Base class: features from the block's encoding, and a prediction from them without weights.

    A subclass says how its features are averaged to a prediction (:meth:`predict`), what the loss
    is, and where the prediction is written. Losses are float32 under autocast too. A batch in which
    no image has the task's truth gives a zero with a gradient, which is zero as well, for every
    parameter, so that distributed training continues.

    Args:
        in_channels: C of the encoding.
        feature_channels: K of the task's features.
        loss_weight: factor of the loss.
        extra_convs: three further layers (1 x 1 to half the channels, 3 x 3, 1 x 1 back), as in the
            reference implementation; False as in the paper.
        norm_cfg: mmcv's; None is the reference's.
        init_cfg: mmengine's; None is Kaiming normal.
    """

    def __init__(
        self,
        in_channels: int,
        feature_channels: int,
        loss_weight: float,
        extra_convs: bool = True,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg or KAIMING)
        self.feature_channels = feature_channels
        self.loss_weight = float(loss_weight)
        half = in_channels // 2
        extra = [
            conv_norm_relu(in_channels, half, 1, norm_cfg=norm_cfg),
            conv_norm_relu(half, half, 3, padding=1, norm_cfg=norm_cfg),
            conv_norm_relu(half, in_channels, 1, norm_cfg=norm_cfg),
        ]
        self.extra_convs = nn.Sequential(*(extra if extra_convs else []))
        self.features = nn.Conv2d(in_channels, feature_channels, 1)

    def forward(self, encoding: Tensor) -> Tensor:
        """(B, C, h, w) encoding -> (B, K, h, w) features."""
        return self.features(self.extra_convs(encoding))

    def predict(self, features: Tensor) -> Tensor:
        """(B, K, h, w) features -> the raw prediction, by average pooling only."""
        raise NotImplementedError

    def loss(self, prediction: Tensor, samples: Sequence[DetDataSample]) -> Tensor:
        """The weighted loss, a float32 scalar: a mean over whatever truth the batch has.

        Args:
            prediction: what :meth:`predict` returned.
            samples: the B data samples; any of them may lack this task's truth.
        """
        raise NotImplementedError

    def write(self, prediction: Tensor, samples: Sequence[DetDataSample]) -> None:
        """Write the prediction of each of the B images into its data sample."""
        raise NotImplementedError


def mean_of_existing(values: Tensor, exists: Tensor) -> Tensor:
    """The mean of those values that exist; 0, connected to the values, if none does.

        mean = Σ exists · values / Σ exists

    With several processes the divisor is the mean count per process, so that gradients averaged
    over processes are those of one process with all images. Every process has to call this.

    Args:
        values: of any shape, float32; those that do not exist have to be finite.
        exists: bool, of the same shape.
    """
    count = reduce_mean(exists.sum().to(values.dtype))
    # Not clamped: the mean count of several processes may be below 1.
    return values.where(exists, 0).sum() / count.where(count > 0, torch.ones_like(count))
