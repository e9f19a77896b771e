"""Precise RoI pooling for GPUs in Triton. The formulas are those of `reference.py`.

Each function is one launch, for one map as for the maps of all levels. There are no atomics: every
number is written by one program that sums in a fixed order, so results have the same bits in every
run.

Nothing here waits for the device: an index of an image or of a level that is out of range is not an
error, as in the other backends, but makes a box without area. The public functions check it where
that is wanted.

Checked against the reference in Triton's interpreter (`TRITON_INTERPRET=1`) on small shapes, and
compiled for real GPUs; not yet run or timed on one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ebm_ops.prroi_pool.triton_boxes import (
    bin_nodes,
    box,
    level_of,
    map_of_level,
    nodes_between,
    pooled_at,
    slopes,
    weight,
)
from ebm_ops.triton_launch import launch_options

_TILE = tl.constexpr(8)
_for_any_count = triton.jit(do_not_specialize=["batch", "count"])


def forward(features: Tensor, rois: Tensor, height: int, width: int, scale: float) -> Tensor:
    """(B, C, H, W), (N, 5) -> (N, C, height, width). Arguments as in `reference.forward`."""
    return forward_levels([features], rois, None, height, width, [scale])


def grad_rois(grad: Tensor, features: Tensor, rois: Tensor, scale: float) -> Tensor:
    """`dL/d rois` (N, 5) of `dL/d pooled` (N, C, h, w). Arguments as in `reference.grad_rois`."""
    return grad_rois_levels(grad, [features], rois, None, [scale])


def grad_features(
    grad: Tensor, rois: Tensor, batch: int, height: int, width: int, scale: float
) -> Tensor:
    """`dL/d features` (B, C, H, W), channels last. Arguments as in `reference.grad_features`."""
    return grad_features_levels(grad, rois, None, batch, [height, width], [scale])[0]


def forward_levels(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor | None,
    height: int,
    width: int,
    scales: Sequence[float],
) -> Tensor:
    """Arguments as in `by_level.forward`; `levels` may be None for a single map."""
    batch, channels = features[0].shape[:2]
    pooled = features[0].new_empty(rois.shape[0], channels, height, width)
    if pooled.numel():
        block, options = launch_options(channels)
        grid = (rois.shape[0] * height * width, triton.cdiv(channels, block))
        with torch.cuda.device_of(rois):
            _forward[grid](
                *_maps(features), *_boxes(rois, levels, scales), pooled, batch, channels, height,
                width, len(features), block, **options,
            )  # fmt: skip
    return pooled


def grad_rois_levels(
    grad: Tensor,
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor | None,
    scales: Sequence[float],
) -> Tensor:
    """Arguments as in `by_level.grad_rois`."""
    count, channels, height, width = grad.shape
    if not grad.numel():
        return torch.zeros_like(rois, memory_format=torch.contiguous_format)
    partial = rois.new_empty(count, height * width, 5)
    block, options = launch_options(channels)
    with torch.cuda.device_of(rois):
        _grad_rois[(count * height * width,)](
            grad.contiguous(), *_maps(features), *_boxes(rois, levels, scales), partial,
            len(features[0]), channels, height, width, len(features), block, **options,
        )  # fmt: skip
    return partial.sum(1)


def grad_features_levels(
    grad: Tensor,
    rois: Tensor,
    levels: Tensor | None,
    batch: int,
    sizes: Sequence[int],
    scales: Sequence[float],
) -> list[Tensor]:
    """Arguments as in `by_level.grad_features`."""
    count, channels, height, width = grad.shape
    pairs = list(zip(sizes[::2], sizes[1::2]))
    maps = [grad.new_empty(batch, *pair, channels) for pair in pairs]
    tiles = sum(batch * triton.cdiv(h, _TILE.value) * triton.cdiv(w, _TILE.value) for h, w in pairs)
    if tiles and channels:
        # As many channels as leave the sums of a tile in registers.
        block = min(triton.next_power_of_2(channels), 64)
        with torch.cuda.device_of(grad):
            _grad_features[(tiles, triton.cdiv(channels, block))](
                _bins_first(grad), tuple(maps), _sizes(pairs), *_boxes(rois, levels, scales), count,
                batch, channels, height, width, len(maps), block, num_warps=4,
                enable_fp_fusion=True,
            )  # fmt: skip
    return [x.permute(0, 3, 1, 2) for x in maps]


def _maps(features: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[float, ...]]:
    """The maps in channels-last layout, and their sizes."""
    maps = tuple(x.contiguous(memory_format=torch.channels_last) for x in features)
    return maps, _sizes([x.shape[2:] for x in features])


def _sizes(pairs: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """Rows and columns of each map, one after another.

    As float, because there would be a variant of the kernel, compiled in mid-inference, for every
    way in which 16 divides integers.
    """
    return tuple(float(size) for pair in pairs for size in pair)


def _boxes(
    rois: Tensor, levels: Tensor | None, scales: Sequence[float]
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Boxes, the level of each, and the scale of each level as the bits of a float64.

    That is because numbers of the host reach a kernel as float32. With one level none is read.
    """
    rois = rois.contiguous()
    bits = tuple(struct.unpack("<q", struct.pack("<d", scale))[0] for scale in scales)
    return rois, rois if levels is None else levels.contiguous(), bits


def _bins_first(grad: Tensor) -> Tensor:
    """(N, C, h, w) -> contiguous (N, h, w, C): neighbouring threads hold neighbouring channels."""
    return grad.permute(0, 2, 3, 1).contiguous()


@_for_any_count
def _forward(
    maps, sizes, rois, levels, scales, pooled, batch, channels, height, width,
    LEVELS: tl.constexpr, BLOCK: tl.constexpr, BINS_FIRST: tl.constexpr = False,
):  # fmt: skip
    """One program: one bin of one box, BLOCK channels; sums have the precision of the boxes."""
    pid = tl.program_id(0)
    n, p, q = (pid // (height * width)).to(tl.int64), pid // width % height, pid % width
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = c < channels
    level = level_of(levels, n, LEVELS)
    features, rows, columns, scale = map_of_level(level, maps, sizes, scales, LEVELS)
    image, ox, dx, wx, oy, dy, wy, usable = box(rois, n, scale, batch, height, width)
    j0, j1 = bin_nodes(ox, dx, wx, q, columns)
    i0, i1 = bin_nodes(oy, dy, wy, p, rows)
    i1 = tl.where(usable & (level >= 0) & (level < LEVELS), i1, i0)
    zeros = tl.zeros((BLOCK,), ox.dtype)
    total = zeros
    for i in range(i0, i1, 2):  # two rows at a time share the weights of their nodes
        row, next_row, both = zeros, zeros, here & (i + 1 < i1)
        for j in range(j0, j1):
            at = features + ((image * rows + i) * columns + j) * channels + c
            vx = weight(ox, dx, wx, q, j)
            row += vx * tl.load(at, mask=here, other=0.0).to(ox.dtype)
            at += columns * channels
            next_row += vx * tl.load(at, mask=both, other=0.0).to(ox.dtype)
        total += weight(oy, dy, wy, p, i) * row
        total += weight(oy, dy, wy, p, i + 1) * next_row
    out = pooled_at(n, c, p * width + q, channels, height * width, BINS_FIRST)
    tl.store(pooled + out, total, mask=here)


@_for_any_count
def _grad_rois(
    grad, maps, sizes, rois, levels, scales, partial, batch, channels, height, width,
    LEVELS: tl.constexpr, BLOCK: tl.constexpr, BINS_FIRST: tl.constexpr = False,
):  # fmt: skip
    """One program: the share of one bin in the gradient of one box, all channels."""
    pid = tl.program_id(0)
    n, p, q = (pid // (height * width)).to(tl.int64), pid // width % height, pid % width
    level = level_of(levels, n, LEVELS)
    features, rows, columns, scale = map_of_level(level, maps, sizes, scales, LEVELS)
    image, ox, dx, wx, oy, dy, wy, usable = box(rois, n, scale, batch, height, width)
    j0, j1 = bin_nodes(ox, dx, wx, q, columns)
    i0, i1 = bin_nodes(oy, dy, wy, p, rows)
    i1 = tl.where(usable & (level >= 0) & (level < LEVELS), i1, i0)
    zeros = tl.zeros((BLOCK,), ox.dtype)
    x1, y1, x2, y2 = zeros, zeros, zeros, zeros
    for block in range(0, channels, BLOCK):
        c = block + tl.arange(0, BLOCK)
        here = c < channels
        out = pooled_at(n, c, p * width + q, channels, height * width, BINS_FIRST)
        g = tl.load(grad + out, mask=here, other=0.0)
        for i in range(i0, i1, 2):
            t, lower, upper, both = zeros, zeros, zeros, here & (i + 1 < i1)
            next_t, next_lower, next_upper = zeros, zeros, zeros
            for j in range(j0, j1):
                at = features + ((image * rows + i) * columns + j) * channels + c
                vx = weight(ox, dx, wx, q, j)
                x_lower, x_upper = slopes(ox, dx, wx, q, j, width)
                f = tl.load(at, mask=here, other=0.0).to(ox.dtype)
                t += vx * f
                lower += x_lower * f
                upper += x_upper * f
                f = tl.load(at + columns * channels, mask=both, other=0.0).to(ox.dtype)
                next_t += vx * f
                next_lower += x_lower * f
                next_upper += x_upper * f
            vy, next_vy = weight(oy, dy, wy, p, i), weight(oy, dy, wy, p, i + 1)
            y_lower, y_upper = slopes(oy, dy, wy, p, i, height)
            next_y_lower, next_y_upper = slopes(oy, dy, wy, p, i + 1, height)
            x1 += g * (vy * lower + next_vy * next_lower)
            x2 += g * (vy * upper + next_vy * next_upper)
            y1 += g * (y_lower * t + next_y_lower * next_t)
            y2 += g * (y_upper * t + next_y_upper * next_t)
    scale = scale.to(ox.dtype)
    to = partial + pid.to(tl.int64) * 5
    tl.store(to, ox * 0.0)  # the image has no gradient; `ox` is finite
    tl.store(to + 1, tl.sum(x1, 0) * scale)
    tl.store(to + 2, tl.sum(y1, 0) * scale)
    tl.store(to + 3, tl.sum(x2, 0) * scale)
    tl.store(to + 4, tl.sum(y2, 0) * scale)


@_for_any_count
def _grad_features(
    grad, maps, sizes, rois, levels, scales, count, batch, channels, height, width,
    LEVELS: tl.constexpr, BLOCK: tl.constexpr, BOXES: tl.constexpr = 128,
):  # fmt: skip
    """One program: a tile of one map, BLOCK channels; gathers from the boxes on it, in order.

    BOXES boxes at a time are compared with the tile, and those that touch it taken one by one.
    """
    tile, level = tl.program_id(0), 0
    for k in tl.static_range(LEVELS - 1):
        rows, columns = tl.cast(sizes[2 * k], tl.int32), tl.cast(sizes[2 * k + 1], tl.int32)
        tiles = batch * tl.cdiv(rows, _TILE) * tl.cdiv(columns, _TILE)
        beyond = (level == k) & (tile >= tiles)
        level, tile = level + beyond.to(tl.int32), tile - tl.where(beyond, tiles, 0)
    out, rows, columns, scale = map_of_level(level, maps, sizes, scales, LEVELS)
    across = tl.cdiv(columns, _TILE)
    image, top = tile // (tl.cdiv(rows, _TILE) * across), tile // across % tl.cdiv(rows, _TILE)
    top, left = top * _TILE, tile % across * _TILE
    i, j = top + tl.arange(0, _TILE), left + tl.arange(0, _TILE)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = c < channels
    total = tl.zeros((_TILE, _TILE, BLOCK), grad.dtype.element_ty)
    for first in range(0, count, BOXES):
        boxes = first + tl.arange(0, BOXES)
        touches = boxes < count
        if LEVELS > 1:
            touches &= tl.load(levels + boxes, mask=touches, other=-1) == level
        index = tl.load(rois + boxes * 5, mask=touches, other=-1.0)
        touches &= (index >= 0) & (index < batch)
        touches &= tl.where(touches, index, -1.0).to(tl.int32) == image
        for axis in tl.static_range(2):
            start = left if axis == 0 else top
            low = tl.load(rois + boxes * 5 + 1 + axis, mask=touches, other=0.0)
            high = tl.load(rois + boxes * 5 + 3 + axis, mask=touches, other=0.0)
            factor = scale.to(low.dtype)
            touches &= (low * factor < start + _TILE) & (high * factor > start - 1)
        n = tl.min(tl.where(touches, boxes, count), 0)
        while n < count:
            _, ox, dx, wx, oy, dy, wy, usable = box(
                rois, n.to(tl.int64), scale, batch, height, width
            )
            # The bins within one cell of the tile; those that only come near it have weight zero.
            q0, q1 = nodes_between((left - 1 - ox - dx) / wx, (left + _TILE - ox - dx) / wx, width)
            p0, p1 = nodes_between((top - 1 - oy - dy) / wy, (top + _TILE - oy - dy) / wy, height)
            p1 = tl.where(usable, p1, p0)
            for p in range(p0, p1):
                row = tl.zeros((_TILE, BLOCK), grad.dtype.element_ty)
                for q in range(q0, q1):
                    at = ((n.to(tl.int64) * height + p) * width + q) * channels
                    g = tl.load(grad + at + c, mask=here, other=0.0)
                    row += weight(ox, dx, wx, q, j)[:, None] * g[None, :]
                total += weight(oy, dy, wy, p, i)[:, None, None] * row[None, :, :]
            n = tl.min(tl.where(touches & (boxes > n), boxes, count), 0)
    at = ((image.to(tl.int64) * rows + i[:, None]) * columns + j[None, :]) * channels
    inside = (i < rows)[:, None, None] & (j < columns)[None, :, None] & here[None, None, :]
    tl.store(out + at[:, :, None] + c[None, None, :], total, mask=inside)
