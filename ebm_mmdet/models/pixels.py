"""Pixels of the image file and of the network's input, and the border of the image in both."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from torch import Tensor

from ..energy.host_reads import constant

__all__ = ["box_scale", "check_enlarge", "clip_to_image", "enlarged", "network_pixels"]


def network_pixels(sample: DetDataSample, device: torch.device) -> Tensor:
    """(4,) float32: pixels of the network's input per pixel of the original image."""
    width, height = sample.metainfo.get("scale_factor", (1.0, 1.0))
    return constant([width, height, width, height], device)


def box_scale(sample: DetDataSample, rescale: bool) -> Tensor:
    """(4,) float32: pixels of the network's input per pixel of the predicted boxes.

    Args:
        sample: with ``pred_instances``, whose device the result has.
        rescale: whether the boxes are in pixels of the original image.
    """
    device = sample.pred_instances.bboxes.device
    return network_pixels(sample, device) if rescale else torch.ones(4, device=device)


def check_enlarge(factor: int) -> None:
    """Raise ``ValueError`` unless this is a whole number from 1 on."""
    if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1:
        raise ValueError(
            f"enlarge={factor!r}; give a whole number: 2 for maps of an image of twice the size, "
            "1 for the image as it is"
        )


def enlarged(images: Tensor, factor: int) -> Tensor:
    """(B, C, H, W) -> (B, C, factor H, factor W), bilinear; what lies at x is at factor x then."""
    if factor == 1:
        return images
    return F.interpolate(images, scale_factor=float(factor), mode="bilinear", align_corners=False)


def clip_to_image(boxes: Tensor, metainfo: dict, scale: Tensor | float = 1.0) -> Tensor:
    """Clip boxes to the image in the network's input, without its padding.

    ``Pad`` overwrites ``img_shape``, so the size is computed from ``ori_shape`` and
    ``scale_factor`` if both are known. The padding of a flipped image may be on any side; for such
    an image ``img_shape`` is used.

    Args:
        boxes: (..., 4) ``(x1, y1, x2, y2)``.
        metainfo: of the data sample.
        scale: network-input pixels per pixel of ``boxes``, a number or (4,).
    """
    height, width = metainfo["img_shape"][:2]
    if "scale_factor" in metainfo and "ori_shape" in metainfo and not metainfo.get("flip"):
        (scale_x, scale_y), original = metainfo["scale_factor"], metainfo["ori_shape"]
        height, width = min(height, original[0] * scale_y), min(width, original[1] * scale_x)
    limit = constant([width, height, width, height], boxes.device, boxes.dtype) / scale
    return torch.minimum(boxes.clamp(min=0), limit)
