"""Per-channel standardisation of frozen feature maps."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

__all__ = ["FeatureStandardizer"]


class FeatureStandardizer(nn.Module):
    r"""``(x - mean_c) / std_c`` with statistics of the training images, without parameters.

    The statistics are averages over all training batches so far (over about the ``window`` most
    recent ones after that many), never those of the current batch alone. So training and test use
    the same function, and images of a batch do not influence each other.

    Args:
        num_channels: C of the maps (B, C, H, W).
        window: number of batches after which the average becomes an exponential one.
    """

    def __init__(self, num_channels: int, window: int = 200) -> None:
        super().__init__()
        self.window = window
        self.register_buffer("mean", torch.zeros(num_channels))
        self.register_buffer("mean_square", torch.ones(num_channels))
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); in training mode the statistics are updated first."""
        if self.training:
            self._update(x)
        # A model in half precision has half-precision buffers; the difference needs more digits.
        mean, mean_square = self.mean.float(), self.mean_square.float()
        std = (mean_square - mean**2).clamp(min=1e-8).sqrt()
        return (x - mean[:, None, None]) / std[:, None, None]

    @torch.no_grad()
    def _update(self, x: Tensor) -> None:
        moments = torch.stack((x.mean(dim=(0, 2, 3)), x.square().mean(dim=(0, 2, 3)))).float()
        all_reduce(moments, op="mean")  # identity for a single process
        if not torch.isfinite(moments).all():
            # One bad batch (an overflow under AMP) must not spoil the buffers for ever. An empty
            # batch (B = 0) has NaN moments, and still takes part in all_reduce, for which the other
            # processes wait.
            return
        self.num_batches += 1
        weight = 1.0 / min(int(self.num_batches), self.window)
        self.mean.copy_(self.mean.float().lerp(moments[0], weight))
        self.mean_square.copy_(self.mean_square.float().lerp(moments[1], weight))
