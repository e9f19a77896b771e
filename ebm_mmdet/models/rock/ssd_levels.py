"""The coarser feature levels of an SSD."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from .layers import KAIMING, NORM, conv_norm_relu

__all__ = ["SSDLevels"]


@MODELS.register_module()
class SSDLevels(BaseModule):
    """Adds levels to the last map of a backbone, each by a 1 x 1 and a larger convolution.

    Level 0 is the map itself. The levels of ``halvings`` use 3 x 3 convolutions of stride 2, the
    next ones 3 x 3 without padding, and the last one a convolution as large as the map that is
    left, so that it ends at 1 x 1. Where a map is smaller than a kernel, the kernel is as small as
    the map. At 480 x 640 these are the reference's levels: 30 x 40, 15 x 20, 8 x 10, 4 x 5, 2 x 3
    and 1 x 1, the last two by kernels of 3 x 3 and 2 x 3; at 96 x 128 they are 6 x 8, 3 x 4, 2 x 2
    and three of 1 x 1.

    Args:
        in_channels: channels of the last map of the backbone.
        mid_channels: channels after each 1 x 1 convolution.
        out_channels: channels of each added level.
        input_size: (height, width) in pixels for which the kernels are chosen. Images of other
            sizes are taken as well: of larger ones the last level is larger than 1 x 1, and of
            smaller ones a map that a kernel does not fit in is surrounded by zeros.
        stride: pixels per cell of the backbone's map.
        halvings: number of added levels of stride 2.
        norm_cfg: mmcv's; None is batch norm of momentum 0.01.
        init_cfg: mmengine's; None is Kaiming normal.

    Raises:
        ValueError: the lengths of ``mid_channels`` and ``out_channels`` differ.
    """

    def __init__(
        self,
        in_channels: int = 2048,
        mid_channels: Sequence[int] = (1024, 256, 128, 128, 128),
        out_channels: Sequence[int] = (1024, 512, 256, 256, 256),
        input_size: tuple[int, int] = (480, 640),
        stride: int = 16,
        halvings: int = 3,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg or KAIMING)
        if len(mid_channels) != len(out_channels):
            raise ValueError(
                f"SSDLevels got mid_channels={tuple(mid_channels)} and "
                f"out_channels={tuple(out_channels)}; both need one number for each added level"
            )
        norm_cfg = norm_cfg or NORM
        self.input_size = tuple(input_size)
        self.levels = nn.ModuleList()
        height, width = (-(-side // stride) for side in input_size)
        for i, (mid, out) in enumerate(zip(mid_channels, out_channels)):
            if i < halvings:
                kernel, step, padding = (3, 3), 2, 1
            elif i < len(mid_channels) - 1:
                kernel, step, padding = (min(3, height), min(3, width)), 1, 0
            else:
                kernel, step, padding = (height, width), 1, 0
            height, width = (
                (side + 2 * padding - size) // step + 1
                for side, size in zip((height, width), kernel)
            )
            self.levels.append(
                nn.Sequential(
                    conv_norm_relu(in_channels, mid, 1, norm_cfg=norm_cfg),
                    conv_norm_relu(mid, out, kernel, step, padding, norm_cfg=norm_cfg),
                )
            )
            in_channels = out

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of the backbone, of which the last (B, C, h, w) is used -> that map and the others.

        Raises:
            ValueError: one image alone is used for training, of whose smallest level, a single
                cell, batch norm has no statistics.
        """
        outs = [maps[-1]]
        for reduce, enlarge in self.levels:
            x = _at_least(reduce(outs[-1]), enlarge[0])
            try:
                outs.append(enlarge(x))
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise ValueError(
                    f"SSDLevels: level {len(outs)} of a batch of one image has a single cell, of "
                    "which batch norm has no statistics; train with at least two images in each "
                    "batch (drop_last=True)"
                ) from error
        return tuple(outs)


def _at_least(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """The map (B, C, h, w), enlarged by zeros on all sides until the kernel fits."""
    short = [
        max(0, size - 2 * pad - side)
        for side, pad, size in zip(x.shape[-2:], conv.padding, conv.kernel_size)
    ]
    if not any(short):
        return x
    (top, left) = (missing // 2 for missing in short)
    return F.pad(x, (left, short[1] - left, top, short[0] - top))
