"""Points under boxes that lie along the axes, as anchors do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["count_points"]


def count_points(
    coors: Tensor,
    footprints: Tensor,
    batch_size: int,
    grid: tuple[int, int],
    voxel_size: Sequence[float],
    origin: Sequence[float],
) -> Tensor:
    """Count the points whose pillar of voxels has its centre in a footprint.

    By an integral image, so the cost does not depend on the size of the footprints.

    Args:
        coors: (N, 4) integers, frame and voxel ``(b, z, y, x)`` of each point.
        footprints: (A, 4) float, ``(x1, y1, x2, y2)`` in metres, the same for all frames.
        batch_size: B.
        grid: voxels (H, W) along y and x.
        voxel_size: along x and y in metres.
        origin: lower limits of the voxels in x and y, in metres.

    Returns:
        (B, A) int64.
    """
    height, width = grid
    b, _, y, x = coors.long().unbind(1)
    image = torch.bincount((b * height + y) * width + x, minlength=batch_size * height * width)
    integral = torch.zeros(batch_size, height + 1, width + 1, dtype=torch.long, device=coors.device)
    integral[:, 1:, 1:] = image.view(batch_size, height, width).cumsum(1).cumsum(2)

    size = footprints.new_tensor([voxel_size[0], voxel_size[1]] * 2)
    low = footprints.new_tensor([origin[0], origin[1]] * 2)
    # Voxel i has its centre above an edge e if i + 1/2 >= e, that is from ceil(e - 1/2) on.
    edges = ((footprints - low) / size - 0.5).ceil().long()
    x1, x2 = edges[:, 0].clamp(0, width), edges[:, 2].clamp(0, width)
    y1, y2 = edges[:, 1].clamp(0, height), edges[:, 3].clamp(0, height)
    return integral[:, y2, x2] - integral[:, y1, x2] - integral[:, y2, x1] + integral[:, y1, x1]
