"""The regression output of an energy head in 3D: where the object is, as seen from any box."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebm_mmdet.models.heads import BoxRegression

from ..box_frame import turned

__all__ = ["BoxRegression3D"]


class BoxRegression3D(BoxRegression):
    """δ(x, y, c) ∈ R^7: metres along, across and up from the box y, of l, w and h, and radians.

    Features are sampled in the frame of the box, so δ is given in it as well: with the yaw θ of y,
    the object lies at

        (x, y) + R(θ) (δ_1, δ_2),   z + δ_3,   (l, w, h) + (δ_4, δ_5, δ_6),   θ + δ_7.

    A residual of yaw is taken in [-π, π). ``residual_std`` has one number for each of these seven.
    All boxes that the objective draws count, because its noise is narrower than an object.

    See :class:`~ebm_mmdet.models.heads.BoxRegression` for the loss, the arguments and the errors.
    """

    dim = 7

    def residual(self, truth: Tensor, boxes: Tensor) -> Tensor:
        """Offsets (..., 7) of annotations (..., 7), in the frame of boxes (..., 7)."""
        offset = turned(truth - boxes, -boxes[..., 6])
        yaw = torch.remainder(offset[..., 6:] + math.pi, 2 * math.pi) - math.pi
        return torch.cat([offset[..., :6], yaw], dim=-1)

    def encode(self, boxes: Tensor, truth: Tensor) -> Tensor:
        """Plain differences, as the noise draws them."""
        return boxes - truth

    def is_near(self, boxes: Tensor, truth: Tensor) -> Tensor:
        """All of them."""
        return torch.ones_like((boxes - truth)[..., 0], dtype=torch.bool)

    def step(self, found: Tensor, y: Tensor, boxes: Tensor) -> Tensor:
        """δ turned from the frame of the boxes into that of the map."""
        return turned(found, boxes[..., 6])
