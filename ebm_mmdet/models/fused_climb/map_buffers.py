"""Maps where a recorded climb reads them, for images of any size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["MapBuffers"]


class MapBuffers:
    """Maps of fixed sizes with those of any smaller images in their corners, and zeros around.

    Outside of its map a box reads zeros, so the pooled numbers are those of the small maps, bit for
    bit. Thus one graph serves images of all sizes.

    Args:
        like: maps (B, C_l, H_l, W_l) that are to fit.
        dtype: of the buffers.
        before: buffers that are replaced: what fits them is to fit as well, unless they are for
            other channels.
    """

    CELLS = 32
    """Sides are rounded up to a multiple of this, so that few images need larger buffers."""

    def __init__(
        self, like: Sequence[Tensor], dtype: torch.dtype, before: MapBuffers | None = None
    ) -> None:
        wanted, self.channels = _sizes(like), _channels(like)
        cells = (-(-size // self.CELLS) * self.CELLS for size in wanted[1:])
        known = before is not None and before.channels == self.channels
        self.sizes = tuple(map(max, (wanted[0], *cells), before.sizes if known else wanted))
        batch, pairs = self.sizes[0], list(zip(self.sizes[1::2], self.sizes[2::2]))
        shapes = [(batch, *pair, channels) for pair, channels in zip(pairs, self.channels)]
        counts = [torch.Size(shape).numel() for shape in shapes]
        self.flat = torch.zeros(sum(counts), dtype=dtype, device=like[0].device)
        self.maps = [
            part.view(shape).permute(0, 3, 1, 2)
            for part, shape in zip(self.flat.split(counts), shapes)
        ]
        self._inside: tuple[int, ...] | None = None

    def fits(self, maps: Sequence[Tensor]) -> bool:
        """Whether the maps can be loaded."""
        return _channels(maps) == self.channels and all(map(int.__le__, _sizes(maps), self.sizes))

    def load(self, maps: Sequence[Tensor]) -> None:
        """Copy maps that fit, and leave nothing of those that were here before."""
        sizes = _sizes(maps)[1:]
        if self._inside != sizes:
            self.flat.zero_()
        self._inside = sizes
        for buffer, each in zip(self.maps, maps):
            batch, _, rows, columns = each.shape
            buffer[:batch, :, :rows, :columns].copy_(each)


def _sizes(maps: Sequence[Tensor]) -> tuple[int, ...]:
    """(B, H_1, W_1, H_2, ...)."""
    return (maps[0].shape[0], *(side for each in maps for side in each.shape[2:]))


def _channels(maps: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(each.shape[1] for each in maps)
