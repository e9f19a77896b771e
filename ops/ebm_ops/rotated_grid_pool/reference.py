"""Pooling on rotated grids in plain PyTorch: the definition with which every backend must agree.

Sample `k` of a box `(x, y, l, w, yaw)` lies at the fractions `(p, q)` of its length and width, and
on the map at `(u, v)`, in cells:

    dx = p l cos(yaw) - q w sin(yaw)        u = (x + dx - x0) / cell_size - pixel_offset
    dy = p l sin(yaw) + q w cos(yaw)        v = (y + dy - y0) / cell_size - pixel_offset

The bilinear interpolant there is `S = (1-a)(1-b) F00 + a(1-b) F10 + (1-a)b F01 + ab F11`, with
`j = floor(u), i = floor(v), a = u - j, b = v - i` and `F_ab` the pixel at row `i + b`, column
`j + a`, zero outside the map. A bin is the mean of its samples.

Every function also takes a tangent (N, 5) or None. With a tangent, the result is the derivative
along it, so that first and second derivatives need only these three functions:

    pool(F, y; h) = sum_k h_k dP/dy_k        grad_boxes(g, F, y; h) = d<g, pool(F, y; h)>/dy
                                             grad_bev(g, y; h) = d<g, pool(F, y; h)>/dF
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ebm_ops.bmm import bmm

_MAX_VALUES = 2**24
"""Values of the map that are copied at a time."""


class Grid(NamedTuple):
    """Where samples lie: in a box, and on the map.

    Attributes:
        rows, columns: bins across the width and along the length.
        samples_per_bin: samples along each axis of a bin; 0 means one sample per bin, the outer
            ones on the edges of the box.
        x0, y0: metres, position of pixel (0, 0) if `pixel_offset` is 0.
        cell_size: metres per pixel.
        pixel_offset: pixels, subtracted from both coordinates on the map.
    """

    rows: int
    columns: int
    samples_per_bin: int
    x0: float
    y0: float
    cell_size: float
    pixel_offset: float


class _Samples(NamedTuple):
    """S samples of each of N boxes, bin by bin, float64."""

    p: Tensor  # (S,) fractions of the length, from 1/2 (front) to -1/2 (rear)
    q: Tensor  # (S,) fractions of the width, from -1/2 (right) to 1/2 (left)
    cosine: Tensor  # (N, 1)
    sine: Tensor  # (N, 1)
    dx: Tensor  # (N, S) metres from the centre of the box
    dy: Tensor  # (N, S)
    a: Tensor  # (N, S) fraction of a cell to the right of the left taps
    b: Tensor  # (N, S) fraction of a cell below the upper taps
    pixel: Tensor  # (N, S, 4) int64, taps F00, F10, F01, F11 among all pixels of the batch
    inside: Tensor  # (N, S, 4) bool: that pixel exists


def forward(
    bev: Tensor, boxes: Tensor, batch_index: Tensor, tangent: Tensor | None, grid: Grid
) -> Tensor:
    """Pool; differentiable any number of times with respect to `bev`, `boxes` and `tangent`.

    Args:
        bev: (B, C, H, W), any floating dtype and memory layout.
        boxes: (N, 5) floating, `x, y, l, w, yaw` in metres and radians.
        batch_index: (N,) int64.
        tangent: (N, 5) or None.
        grid: where the samples lie.

    Returns:
        Tensor: (N, C, rows, columns) in the dtype of `bev`.
    """
    check_batch_index(batch_index, bev.shape[0])
    parts = [
        _forward(bev, *part, grid)
        for part in _split(grid, bev.shape[1], boxes, batch_index, tangent)
    ]
    return torch.cat(parts)


def grad_boxes(
    grad: Tensor,
    bev: Tensor,
    boxes: Tensor,
    batch_index: Tensor,
    tangent: Tensor | None,
    grid: Grid,
) -> Tensor:
    """`dL/d boxes` (N, 5) in closed form, for `grad` (N, C, rows, columns) = `dL/d pooled`."""
    check_batch_index(batch_index, bev.shape[0])
    parts = _split(grid, bev.shape[1], boxes, batch_index, tangent, grad)
    return torch.cat([_grad_boxes(bev, *part, grid) for part in parts])


def grad_bev(
    grad: Tensor,
    boxes: Tensor,
    batch_index: Tensor,
    tangent: Tensor | None,
    size: tuple[int, int, int],
    grid: Grid,
) -> Tensor:
    """`dL/d bev` (B, C, H, W) in channels-last layout, in closed form; `size` is `(B, H, W)`."""
    batch, height, width = size
    check_batch_index(batch_index, batch)
    channels = grad.shape[1]
    maps = grad.new_zeros(batch * height * width, channels)
    for part in _split(grid, channels, boxes, batch_index, tangent, grad):
        boxes_, index, tangent_, grad_ = part
        pixels, weights = taps(boxes_, index, tangent_, (height, width), grid)
        values = weights.to(grad.dtype)[..., None] * _by_sample(grad_, grid)[:, :, None]
        inside = pixels >= 0
        maps.index_add_(0, pixels[inside], values[inside])
    return maps.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def check_batch_index(batch_index: Tensor, batch: int) -> None:
    """Raise `ValueError` unless all of `batch_index` lies in `0..batch - 1`.

    On a GPU this waits for the device. While torch compiles, nothing can be read and nothing is
    checked.
    """
    if batch_index.shape[0] == 0 or torch.compiler.is_compiling():
        return
    bad = (batch_index < 0) | (batch_index >= batch)
    if bad.any():
        n = int(bad.nonzero()[0])
        raise ValueError(
            f"batch_index[{n}] must be in 0..{batch - 1} for a map of batch size {batch}, "
            f"got {int(batch_index[n])}"
        )


def fractions(count: int, samples_per_bin: int, device: torch.device | None = None) -> Tensor:
    """Positions of the samples of `count` bins along a side, from 1/2 down to -1/2, float64."""
    if samples_per_bin:
        total = count * samples_per_bin
        return 0.5 - (torch.arange(total, device=device, dtype=torch.float64) + 0.5) / total
    steps = torch.arange(count, device=device, dtype=torch.float64)
    return 0.5 - steps / (count - 1) if count > 1 else steps


def fractions_of_samples(grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
    """(p, q) of the samples of a box, each (S,), bin by bin, float64."""
    each = max(1, grid.samples_per_bin)
    p = fractions(grid.columns, grid.samples_per_bin, device).reshape(1, grid.columns, 1, each)
    q = -fractions(grid.rows, grid.samples_per_bin, device).reshape(grid.rows, 1, each, 1)
    shape = grid.rows, grid.columns, each, each
    return p.expand(shape).flatten(), q.expand(shape).flatten()


def taps(
    boxes: Tensor,
    batch_index: Tensor,
    tangent: Tensor | None,
    size: tuple[int, int],
    grid: Grid,
) -> tuple[Tensor, Tensor]:
    """Pixels (N, S, 4) int64 among all of the batch, -1 outside, and their weights, float64."""
    s = _samples(boxes, batch_index, size, grid)
    return s.pixel.where(s.inside, -1), _weights(s, tangent, grid)


def _split(grid: Grid, channels: int, *tensors: Tensor | None) -> list[tuple[Tensor | None, ...]]:
    """Split the tensors along the boxes into parts whose taps fit into memory."""
    values = grid.rows * grid.columns * max(1, grid.samples_per_bin) ** 2 * 4 * max(1, channels)
    size = max(1, _MAX_VALUES // values)
    count = len(tensors[0].split(size))
    return list(zip(*([None] * count if t is None else t.split(size) for t in tensors)))


def _forward(
    bev: Tensor, boxes: Tensor, batch_index: Tensor, tangent: Tensor | None, grid: Grid
) -> Tensor:
    s = _samples(boxes, batch_index, bev.shape[2:], grid)
    weights = _weights(s, tangent, grid).to(bev.dtype)
    sampled = bmm(weights.flatten(0, 1)[:, None], _values(bev, s).flatten(0, 1))
    each = max(1, grid.samples_per_bin) ** 2
    means = sampled.reshape(len(boxes), grid.rows, grid.columns, each, bev.shape[1]).sum(3)
    return means.permute(0, 3, 1, 2).contiguous()


def _grad_boxes(
    bev: Tensor,
    boxes: Tensor,
    batch_index: Tensor,
    tangent: Tensor | None,
    grad: Tensor,
    grid: Grid,
) -> Tensor:
    s = _samples(boxes, batch_index, bev.shape[2:], grid)
    f00, f10, f01, f11 = _values(bev, s).unbind(2)
    g = _by_sample(grad, grid)
    e0, e1, e2 = ((g * t).sum(-1).double() for t in (f10 - f00, f11 - f01, f01 - f00))
    per_cell = 1 / (grid.cell_size * max(1, grid.samples_per_bin) ** 2)
    gu, gv = (e0 + s.b * (e1 - e0)) * per_cell, (e2 + s.a * (e1 - e0)) * per_cell
    found = torch.stack(_chain(s, gu, gv), -1)
    if tangent is not None:
        guv = (e1 - e0) * per_cell / grid.cell_size
        move_x, move_y = _motion(s, tangent)
        _, _, hl, hw, turn = tangent.double()[:, :, None].unbind(1)
        second = [
            turn * s.p * (gv * s.cosine - gu * s.sine),
            -turn * s.q * (gu * s.cosine + gv * s.sine),
            gu * (-s.p * hl * s.sine - s.q * hw * s.cosine - turn * s.dx)
            + gv * (s.p * hl * s.cosine - s.q * hw * s.sine - turn * s.dy),
        ]
        found = torch.stack(_chain(s, guv * move_y, guv * move_x), -1)
        found[..., 2:] += torch.stack(second, -1)
    # Zero even where a zero weight would multiply an infinite value.
    return found.where(s.inside.any(-1, keepdim=True), 0).sum(1).to(boxes.dtype)


def _chain(s: _Samples, gx: Tensor, gy: Tensor) -> list[Tensor]:
    """Gradients (N, S) by x, y, l, w, yaw from those by the samples' positions in metres."""
    return [
        gx,
        gy,
        s.p * (gx * s.cosine + gy * s.sine),
        s.q * (gy * s.cosine - gx * s.sine),
        gy * s.dx - gx * s.dy,
    ]


def _motion(s: _Samples, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """How the samples move (N, S) along a tangent of the boxes, metres."""
    hx, hy, hl, hw, turn = tangent.double()[:, :, None].unbind(1)
    return (
        hx + s.p * hl * s.cosine - s.q * hw * s.sine - turn * s.dy,
        hy + s.p * hl * s.sine + s.q * hw * s.cosine + turn * s.dx,
    )


def _weights(s: _Samples, tangent: Tensor | None, grid: Grid) -> Tensor:
    """Weights of the taps (N, S, 4) in the mean of a bin, or their derivatives; float64."""
    a, b = s.a, s.b
    if tangent is None:
        weights = [(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b]
    else:
        du, dv = (t / grid.cell_size for t in _motion(s, tangent))
        weights = [
            -du * (1 - b) - dv * (1 - a),
            du * (1 - b) - dv * a,
            -du * b + dv * (1 - a),
            du * b + dv * a,
        ]
    share = 1 / max(1, grid.samples_per_bin) ** 2
    return (share * torch.stack(weights, -1)).where(s.inside, 0)


def _values(bev: Tensor, s: _Samples) -> Tensor:
    """The map at the taps (N, S, 4, C), zero outside."""
    pixels = bev.permute(0, 2, 3, 1).flatten(0, 2)
    inside = s.inside.flatten().nonzero().flatten()
    found = pixels.index_select(0, s.pixel.flatten()[inside])
    values = pixels.new_zeros(s.inside.numel(), bev.shape[1]).index_copy(0, inside, found)
    return values.reshape(*s.inside.shape, bev.shape[1])


def _by_sample(grad: Tensor, grid: Grid) -> Tensor:
    """(N, C, rows, columns) -> (N, S, C)."""
    return grad.flatten(2).mT.repeat_interleave(max(1, grid.samples_per_bin) ** 2, 1)


def _samples(boxes: Tensor, batch_index: Tensor, size: tuple[int, int], grid: Grid) -> _Samples:
    height, width = size
    usable = boxes.detach().isfinite().all(1, keepdim=True)
    # Zeros replace boxes that are not finite, so that no gradient is 0 times NaN.
    x, y, long, wide, yaw = boxes.double().where(usable, 0)[:, :, None].unbind(1)
    cosine, sine = yaw.cos(), yaw.sin()
    p, q = fractions_of_samples(grid, boxes.device)
    dx, dy = p * long * cosine - q * wide * sine, p * long * sine + q * wide * cosine
    u = (x + dx - grid.x0) / grid.cell_size - grid.pixel_offset
    v = (y + dy - grid.y0) / grid.cell_size - grid.pixel_offset
    near = usable & (u >= -1) & (u < width) & (v >= -1) & (v < height)
    u, v = u.where(near, 0), v.where(near, 0)
    j, i = u.detach().floor(), v.detach().floor()
    rows = torch.stack([i, i, i + 1, i + 1], -1).long()
    columns = torch.stack([j, j + 1, j, j + 1], -1).long()
    inside = near[..., None] & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    pixel = (batch_index[:, None, None] * height + rows) * width + columns
    return _Samples(p, q, cosine, sine, dx, dy, u - j, v - i, pixel, inside)
