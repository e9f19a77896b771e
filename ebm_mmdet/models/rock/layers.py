"""The layer that everything in ROCK is made of."""

from __future__ import annotations

from mmcv.cnn import build_norm_layer
from torch import nn

__all__ = ["KAIMING", "NORM", "conv_norm_relu"]

NORM = dict(type="BN", momentum=0.01, requires_grad=True)
"""Batch norm of the reference: running statistics that move slowly, never frozen."""

KAIMING = dict(
    type="Kaiming",
    layer="Conv2d",
    distribution="normal",
    mode="fan_in",
    nonlinearity="relu",
    bias=0,
)
"""Kaiming normal. ``fan_in``, because a head with few outputs would start with huge logits else."""


def conv_norm_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int],
    stride: int = 1,
    padding: int = 0,
    norm_cfg: dict | None = None,
) -> nn.Sequential:
    """Convolution with a bias, norm and ReLU: (B, in, H, W) -> (B, out, H', W').

    The bias does nothing in front of a batch norm that is being trained. It exists so that the
    reference's checkpoints fit; mmcv's ``ConvModule`` would warn of it at every layer.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the convolution, (height, width) if not square.
        stride: likewise.
        padding: likewise.
        norm_cfg: mmcv's; None is :data:`NORM`.
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
    _, norm = build_norm_layer(norm_cfg or NORM, out_channels)
    return nn.Sequential(conv, norm, nn.ReLU(inplace=True))
