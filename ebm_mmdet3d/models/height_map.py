"""The heights of points, seen from above: what a map of features tells least about."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["HEIGHT_CHANNELS", "height_map"]

HEIGHT_CHANNELS = 3
"""Highest and lowest point of a cell, and whether it has any."""


@torch.no_grad()
def height_map(
    points: Sequence[Tensor],
    shape: Sequence[int],
    origin: Sequence[float],
    cell_size: float,
    pixel_offset: float = 0.0,
) -> Tensor:
    """The highest and the lowest point of each cell.

    Cell i of an axis stands for ``origin + (i + pixel_offset) * cell_size``, as in
    :class:`~ebm_mmdet3d.models.EBM3DRefineHead`, and takes the points that are nearest to it.

    Args:
        points: (P, 3 or more) x, y, z in metres of each frame; points outside of the map, or with a
            coordinate that is not finite, are left out.
        shape: rows along y and columns along x of the map.
        origin: position (x0, y0) in metres.
        cell_size: metres.
        pixel_offset: in cells.

    Returns:
        (B, 3, rows, columns) float32: z of the highest and of the lowest point in metres, 0 in
        cells without points; and 1 in cells with points, 0 in others.
    """
    rows, columns = shape
    maps = []
    for each in points:
        x, y, z = each[:, :3].float().unbind(1)
        column = ((x - origin[0]) / cell_size - pixel_offset).round()
        row = ((y - origin[1]) / cell_size - pixel_offset).round()
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows) & z.isfinite()
        # Others go to one more cell at the end, so that nothing waits for their number.
        cell = (row * columns + column).where(inside, rows * columns).nan_to_num().long()
        flat = z.new_zeros(2, rows * columns + 1)
        flat.scatter_reduce_(
            1, cell.expand(2, -1), torch.stack([z, -z]).nan_to_num(), "amax", include_self=False
        )
        occupied = z.new_zeros(rows * columns + 1).scatter_(0, cell, 1.0)
        channels = torch.stack([flat[0], -flat[1], occupied])[:, :-1]
        maps.append(channels.view(HEIGHT_CHANNELS, rows, columns))
    return torch.stack(maps)
