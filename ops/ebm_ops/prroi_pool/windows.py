"""The boxes that pool something, and the windows of the map on which they are computed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

MIN_SIDE = 1e-5
"""A box whose side is shorter than this many feature cells has no area and pools to zero."""


class Group(NamedTuple):
    """Consecutive boxes of one image and the window of the map that covers them all."""

    index: Tensor  # (n,) int64
    batch: int
    rows: slice
    columns: slice


def axes(rois: Tensor, scale: float) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """((x1, x2), (y1, y2)) in feature cells, float64: thin bins divide by their small width."""
    x1, y1, x2, y2 = (rois[:, 1:].double() * scale).unbind(1)
    return (x1, x2), (y1, y2)


def groups(rois: Tensor, map_size: tuple[int, int], scale: float) -> Iterator[Group]:
    """Groups, in order, of the boxes that have an area and touch the map; each shares a window.

    A group ends where its window would exceed twice the largest window of a single box: samples
    around one object then need one matrix product, and scattered boxes do not waste work.
    """
    index, table = windows_of(rois, map_size, scale)
    windows = table.tolist()
    begin = 0
    while begin < len(windows):
        b, *union = windows[begin]
        largest = _area(union)
        end = begin + 1
        while end < len(windows) and windows[end][0] == b:
            i0, j0, i1, j1 = windows[end][1:]
            joined = [min(union[0], i0), min(union[1], j0), max(union[2], i1), max(union[3], j1)]
            largest = max(largest, _area(windows[end][1:]))
            if _area(joined) > 2 * largest:
                break
            union, end = joined, end + 1
        rows, columns = slice(union[0], union[2]), slice(union[1], union[3])
        yield Group(index[begin:end], b, rows, columns)
        begin = end


def windows_of(rois: Tensor, map_size: tuple[int, int], scale: float) -> tuple[Tensor, Tensor]:
    """Index (n,) and windows (n, 5) of the boxes that have an area and touch the map.

    A window (n, 5) int64 is image, top, left, bottom, right: the nodes under the box, half-open.
    """
    height, width = map_size
    (x1, x2), (y1, y2) = axes(rois.detach(), scale)
    usable = torch.isfinite(x2 - x1) & torch.isfinite(y2 - y1)
    usable &= (x2 - x1 >= MIN_SIDE) & (y2 - y1 >= MIN_SIDE)
    # The nodes j with a - 1 < j < b + 1.
    left, right = x1.floor().clamp(0, width), (x2.ceil() + 1).clamp(0, width)
    top, bottom = y1.floor().clamp(0, height), (y2.ceil() + 1).clamp(0, height)
    usable &= (left < right) & (top < bottom)
    index = usable.nonzero().flatten()
    table = torch.stack([rois[:, 0].detach().double(), top, left, bottom, right], 1)[index]
    return index, table.long()


def _area(window: list[int]) -> int:
    return (window[2] - window[0]) * (window[3] - window[1])
