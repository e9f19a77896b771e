"""Boxes whose right and lower sides are pixels: width x2 - x1 + 1, as in maskrcnn-benchmark.

Such a box is read here as half open, (x1, y1, x2 + 1, y2 + 1). Sizes, centres, decoding, IoU and
the choice of the level are then the usual formulas. Two things remain, for networks that were
trained with that convention: what is pooled, and the way back to the original image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.registry import MODELS
from torch import Tensor, nn

__all__ = [
    "InclusiveRoIExtractor",
    "rescale_inclusive",
    "to_last_pixels",
    "undo_rescale_inclusive",
]


def to_last_pixels(boxes: Tensor) -> Tensor:
    """The corners that are pooled: (x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)).

    Args:
        boxes: (..., 4) half open, in pixels of the network's input.
    """
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([low, torch.maximum(high - 1, low)], dim=-1)


def rescale_inclusive(boxes: Tensor, scale: Tensor) -> Tensor:
    """The way back that the one pixel takes: x1 / r, y1 / r, (x2 - 1) / r + 1, (y2 - 1) / r + 1.

    Args:
        boxes: (..., 4) half open, divided by r already: x1 / r, y1 / r, x2 / r, y2 / r.
        scale: (4,) r, network pixels per pixel of the original image.
    """
    return boxes + _missing(scale).to(boxes)


def undo_rescale_inclusive(boxes: Tensor, scale: Tensor) -> Tensor:
    """The inverse of :func:`rescale_inclusive`, for boxes that come from the original image.

    Times r the result is (x1 r, y1 r, (x2 - 1) r + 1, (y2 - 1) r + 1). Where r > 1, a box narrower
    or lower than 1 - 1/r pixels has no positive size there.

    Args:
        boxes: (..., 4) half open, in pixels of the original image.
        scale: (4,) r, network pixels per pixel of the original image.

    Returns:
        (..., 4) half open, to be multiplied by r.
    """
    return boxes - _missing(scale).to(boxes)


def _missing(scale: Tensor) -> Tensor:
    """(4,) 0, 0, 1 - 1/r, 1 - 1/r of r (4,)."""
    missing = 1 - 1 / scale
    return torch.cat([torch.zeros_like(missing[:2]), missing[2:]])


class _OfLastPixels(nn.Module):
    """A RoI layer that gets corners as :func:`to_last_pixels` makes them."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.output_size = layer, layer.output_size

    def forward(self, feat: Tensor, rois: Tensor) -> Tensor:
        return self.layer(feat, torch.cat([rois[:, :1], to_last_pixels(rois[:, 1:])], dim=1))


@MODELS.register_module()
class InclusiveRoIExtractor(SingleRoIExtractor):
    """mmdet's ``SingleRoIExtractor`` for box heads that were trained in maskrcnn-benchmark.

    A box half open is pooled without its last pixel at the right and at the bottom, at least 0
    wide. Its level is that of the whole box.

    Source: maskrcnn-benchmark, ``Pooler`` on a ``BoxList``, as in the released code of Gustafsson
    et al., ECCV 2020.
    """

    def build_roi_layers(self, layer_cfg: dict, featmap_strides: Sequence[int]) -> nn.ModuleList:
        """The RoI layers of all levels."""
        layers = super().build_roi_layers(layer_cfg, featmap_strides)
        return nn.ModuleList(_OfLastPixels(layer) for layer in layers)
