"""From the frame of a box, along and across it, to that of the sensor, and back."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["turned"]


def turned(offsets: Tensor, yaw: Tensor) -> Tensor:
    """Offsets (..., 7) whose x and y are turned by yaw (...): from a box's frame to the sensor's.

    With -yaw it is the way back.
    """
    cos, sin = yaw.cos(), yaw.sin()
    x, y = offsets[..., 0], offsets[..., 1]
    place = torch.stack((cos * x - sin * y, sin * x + cos * y), dim=-1)
    return torch.cat((place, offsets[..., 2:]), dim=-1)
