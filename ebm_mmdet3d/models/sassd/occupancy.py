"""Numbers of points in axis-parallel footprints, such as those of anchors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["count_points"]

_TOLERANCE = 1e-3  # voxels


def count_points(
    coors: Tensor,
    footprints: Tensor,
    batch_size: int,
    grid: tuple[int, int],
    voxel_size: Sequence[float],
    origin: Sequence[float],
) -> Tensor:
    """Count the points in the columns of voxels that belong to a footprint.

    A column belongs to a footprint ``(x1, y1, x2, y2)`` if the lower corner of its voxels lies in
    ``(x1, x2] x (y1, y2]``, the rule of the released code: of two columns whose lower corners are
    the two edges of a footprint, the upper one belongs to it. An edge below the first column counts
    as an edge on it, so the first column belongs to no footprint, as in the released code, where
    the sum up to the first column is subtracted.

    An edge within a thousandth of a voxel of a corner counts as lying on it. All edges of SA-SSD's
    anchors lie on corners, up to rounding; the released code compares their float32 values, so in
    that code some 5 % of the edges fall one column lower.

    An integral image is used, so the cost does not depend on the size of the footprints.

    Args:
        coors: (N, 4) integers, frame and voxel ``(b, z, y, x)`` of each point.
        footprints: (A, 4) float, ``(x1, y1, x2, y2)`` in metres, the same for all frames.
        batch_size: number of frames B.
        grid: numbers of voxels (H, W) along y and x.
        voxel_size: size of a voxel along x and y in metres.
        origin: lower limits of the voxels in x and y, in metres.

    Returns:
        (B, A) int64, number of points.

    Source: He et al., CVPR 2020, released code (``fused_get_anchors_area``).
    """
    height, width = grid
    b, _, y, x = coors.long().unbind(1)
    image = torch.bincount((b * height + y) * width + x, minlength=batch_size * height * width)
    integral = torch.zeros(batch_size, height + 1, width + 1, dtype=torch.long, device=coors.device)
    integral[:, 1:, 1:] = image.view(batch_size, height, width).cumsum(1).cumsum(2)

    size = footprints.new_tensor([voxel_size[0], voxel_size[1]] * 2)
    low = footprints.new_tensor([origin[0], origin[1]] * 2)
    edges = (footprints - low) / size
    corner = edges.round()
    edges = torch.where((edges - corner).abs() < _TOLERANCE, corner, edges).floor().long()
    # Columns edge1 < i <= edge2; column i is at i + 1 of the integral image.
    x1, x2 = (edges[:, k].clamp(0, width - 1) + 1 for k in (0, 2))
    y1, y2 = (edges[:, k].clamp(0, height - 1) + 1 for k in (1, 3))
    return integral[:, y2, x2] - integral[:, y1, x2] - integral[:, y2, x1] + integral[:, y1, x1]
