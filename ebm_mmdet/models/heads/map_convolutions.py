"""Convolutions of a frozen map, once per image and before pooling."""

from __future__ import annotations

from torch import Tensor, nn

from ...energy.log_density import at_least_float32

__all__ = ["Float32Conv2d", "MapConvolutions"]


class Float32Conv2d(nn.Conv2d):
    """``nn.Conv2d`` that multiplies in float32 even if its weights have half precision.

    Under autocast it behaves like ``nn.Conv2d``, as ``Float32Linear`` does like ``nn.Linear``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) of any precision -> (B, K, H, W), float32 or better."""
        dtype = at_least_float32(self.weight.dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        return self._conv_forward(x.to(dtype), self.weight.to(dtype), bias)


class MapConvolutions(nn.Sequential):
    """Separable 3 x 3 convolutions with SiLU between them: (B, C, H, W) -> (B, K, H, W).

    Pooling is linear, so what a head makes of a map before pooling is all that is not linear in
    it below the size of a bin: an edge, say, whose sign does not matter. A separable convolution
    is one of each channel by itself and one of 1 x 1 over the channels, a seventh of the products
    of a full one at 32 channels.

    Args:
        in_channels: C.
        out_channels: K.
        count: number of convolutions; the receptive field is ``2 count + 1`` cells wide.
    """

    def __init__(self, in_channels: int, out_channels: int, count: int) -> None:
        layers: list[nn.Module] = []
        channels = in_channels
        for index in range(count):
            layers += [nn.SiLU()] * (index > 0)
            layers.append(Float32Conv2d(channels, channels, 3, padding=1, groups=channels))
            layers.append(Float32Conv2d(channels, out_channels, 1))
            channels = out_channels
        super().__init__(*layers)
