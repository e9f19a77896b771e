"""Precise RoI pooling on a GPU into buffers of the caller, as a CUDA graph repeats it.

Both functions are one launch: nothing is allocated, converted, checked or summed, so that every
address is known when the graph is made. For everything else there is `ebm_ops.prroi_pool_levels`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from ebm_ops.prroi_pool import triton as kernels
from ebm_ops.triton_launch import launch_options


def pool_into(
    pooled: Tensor, maps: Sequence[Tensor], rois: Tensor, levels: Tensor, scales: Sequence[float]
) -> None:
    """Write `prroi_pool_levels` with the channels last.

    Args:
        pooled: (N, h, w, C) contiguous, float32 or float64: written.
        maps: the map of each level, (B, C, H_l, W_l), `torch.channels_last`; they may have half
            precision, sums then still have that of `rois`.
        rois: (N, 5) contiguous, in the dtype of `pooled`: `batch_index, x1, y1, x2, y2` in image
            units. An index of an image out of range makes a box without area.
        levels: (N,) int64, contiguous; not read where there is one level.
        scales: feature cells per image unit on each level.
    """
    count, height, width, channels = pooled.shape
    block, options = launch_options(channels)
    with torch.cuda.device_of(rois):
        kernels._forward[(count * height * width, triton.cdiv(channels, block))](
            *kernels._maps(maps), *kernels._boxes(rois, levels, scales), pooled, len(maps[0]),
            channels, height, width, len(maps), block, True, **options,
        )  # fmt: skip


def grad_rois_into(
    partial: Tensor,
    grad: Tensor,
    maps: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    scales: Sequence[float],
) -> None:
    """Write the share of each bin in `dL/d rois`; the sum over bins is the gradient.

    Args:
        partial: (N, h w, 5) contiguous: written; the first column, of the image, is zero.
        grad: `dL/d pooled` (N, h, w, C), contiguous.
        maps, rois, levels, scales: as in :func:`pool_into`.
    """
    count, height, width, channels = grad.shape
    block, options = launch_options(channels)
    with torch.cuda.device_of(rois):
        kernels._grad_rois[(count * height * width,)](
            grad, *kernels._maps(maps), *kernels._boxes(rois, levels, scales), partial,
            len(maps[0]), channels, height, width, len(maps), block, True, **options,
        )  # fmt: skip
