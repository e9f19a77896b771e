"""Pooling on rotated grids for GPUs in Triton. The formulas are those of `reference.py`.

Positions and weights are float64 for every dtype of the map, because they are only a few numbers
per sample. There are no atomics: every result is written by one program that sums in a fixed order,
so it has the same bits in every run. For the gradient to the map, the taps of all boxes are first
sorted by pixel.

Nothing here waits for the device: a batch index out of range is not an error, as in the other
backends, but makes a box that is not finite. `rotated_grid_pool` checks it where that is wanted.

Checked against the reference in Triton's interpreter (`TRITON_INTERPRET=1`) on small shapes; not
yet run or timed on a real GPU.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from ebm_ops.rotated_grid_pool import reference
from ebm_ops.rotated_grid_pool.reference import Grid
from ebm_ops.triton_launch import launch_options

# Else there is a variant, compiled in mid-inference, for every way in which 16 divides the sizes.
_for_any_map = triton.jit(do_not_specialize=["batch", "height", "width"])


def forward(
    bev: Tensor, boxes: Tensor, batch_index: Tensor, tangent: Tensor | None, grid: Grid
) -> Tensor:
    """(N, C, rows, columns). Arguments as in `reference.forward`."""
    batch, channels, height, width = bev.shape
    pooled = bev.new_empty(len(boxes), channels, grid.rows, grid.columns)
    if pooled.numel():
        block, options = launch_options(channels)
        bins = grid.rows * grid.columns
        with torch.cuda.device_of(bev):
            _forward[(len(boxes) * bins, triton.cdiv(channels, block))](
                bev.contiguous(memory_format=torch.channels_last), *_boxes(boxes, tangent),
                batch_index.contiguous(), _where(grid, bev.device), pooled, batch, channels, height,
                width, bins, _per_bin(grid), tangent is not None, block, **options,
            )  # fmt: skip
    return pooled


def grad_boxes(
    grad: Tensor,
    bev: Tensor,
    boxes: Tensor,
    batch_index: Tensor,
    tangent: Tensor | None,
    grid: Grid,
) -> Tensor:
    """`dL/d boxes` (N, 5). Arguments as in `reference.grad_boxes`."""
    batch, channels, height, width = bev.shape
    if not grad.numel():
        return torch.zeros_like(boxes)
    samples = grid.rows * grid.columns * _per_bin(grid)
    partial = boxes.new_empty(len(boxes), samples, 5, dtype=torch.float64)
    block, options = launch_options(channels)
    with torch.cuda.device_of(bev):
        _grad_boxes[(len(boxes) * samples,)](
            _bins_first(grad), bev.contiguous(memory_format=torch.channels_last),
            *_boxes(boxes, tangent), batch_index.contiguous(), _where(grid, bev.device), partial,
            batch, channels, height, width, samples, _per_bin(grid), tangent is not None, block,
            **options,
        )  # fmt: skip
    return partial.sum(1).to(boxes.dtype)


def grad_bev(
    grad: Tensor,
    boxes: Tensor,
    batch_index: Tensor,
    tangent: Tensor | None,
    size: tuple[int, int, int],
    grid: Grid,
) -> Tensor:
    """`dL/d bev` (B, C, H, W), channels last. Arguments as in `reference.grad_bev`."""
    batch, height, width = size
    channels = grad.shape[1]
    maps = grad.new_empty(batch, height, width, channels)
    if maps.numel():
        pixels, weights = reference.taps(boxes, batch_index, tangent, (height, width), grid)
        order = torch.sort(pixels.flatten(), stable=True)
        starts = torch.searchsorted(
            order.values, torch.arange(batch * height * width + 1, device=grad.device)
        )
        block, options = launch_options(channels)
        with torch.cuda.device_of(grad):
            _grad_bev[(batch * height * width, triton.cdiv(channels, block))](
                _bins_first(grad), weights, order.indices, starts, maps, channels,
                4 * _per_bin(grid), block, **options,
            )  # fmt: skip
    return maps.permute(0, 3, 1, 2)


def _per_bin(grid: Grid) -> int:
    return max(1, grid.samples_per_bin) ** 2


def _boxes(boxes: Tensor, tangent: Tensor | None) -> tuple[Tensor, Tensor]:
    """Contiguous boxes and tangents; without a tangent the boxes are passed twice."""
    boxes = boxes.contiguous()
    return boxes, boxes if tangent is None else tangent.contiguous()


@functools.cache
def _where(grid: Grid, device: torch.device) -> Tensor:
    """x0, y0, cell size, pixel offset, then (p, q) of each sample; float64.

    In memory, because float arguments of a Triton kernel are float32; kept for ever, because a CUDA
    graph that has recorded a kernel holds the address.
    """
    corner = torch.tensor(grid[3:], dtype=torch.float64)
    p, q = reference.fractions_of_samples(grid, torch.device("cpu"))
    where = torch.cat([corner, torch.stack([p, q], 1).flatten()])
    return where.to(device, non_blocking=True)


def _bins_first(grad: Tensor) -> Tensor:
    """(N, C, h, w) -> contiguous (N, h, w, C): neighbouring threads hold neighbouring channels."""
    return grad.permute(0, 2, 3, 1).contiguous()


@triton.jit
def _fields(rows, n):
    """The five numbers of a box or of a tangent."""
    at = rows + n * 5
    return (
        tl.load(at).to(tl.float64),
        tl.load(at + 1).to(tl.float64),
        tl.load(at + 2).to(tl.float64),
        tl.load(at + 3).to(tl.float64),
        tl.load(at + 4).to(tl.float64),
    )


@triton.jit
def _finite(value):
    return tl.abs(value) < float("inf")


@triton.jit
def _sample(boxes, images, where, n, s, batch, height, width):
    """Image of box n, and its sample s: p, q, cos, sin, dx, dy, column, row, fractions, near."""
    image = tl.load(images + n)
    x, y, long, wide, yaw = _fields(boxes, n)
    p, q = tl.load(where + 4 + 2 * s), tl.load(where + 5 + 2 * s)
    x0, y0, cell, offset = (
        tl.load(where),
        tl.load(where + 1),
        tl.load(where + 2),
        tl.load(where + 3),
    )
    usable = _finite(x) & _finite(y) & _finite(long) & _finite(wide) & _finite(yaw)
    yaw = tl.where(usable, yaw, 0.0)
    cosine, sine = tl.cos(yaw), tl.sin(yaw)
    dx, dy = p * long * cosine - q * wide * sine, p * long * sine + q * wide * cosine
    u, v = (x + dx - x0) / cell - offset, (y + dy - y0) / cell - offset
    usable = usable & (image >= 0) & (image < batch)
    near = usable & (u >= -1) & (u < width) & (v >= -1) & (v < height)
    # Finite numbers elsewhere, because a NaN must not be rounded to an integer.
    u, v = tl.where(near, u, 0.0), tl.where(near, v, 0.0)
    j, i = tl.floor(u), tl.floor(v)
    image = tl.where(near, image, 0)
    return image, p, q, cosine, sine, dx, dy, j.to(tl.int32), i.to(tl.int32), u - j, v - i, near


@triton.jit
def _motion(tangent, n, p, q, cosine, sine, dx, dy):
    """How a sample moves along the tangent, in metres."""
    hx, hy, hl, hw, turn = _fields(tangent, n)
    return (
        hx + p * hl * cosine - q * hw * sine - turn * dy,
        hy + p * hl * sine + q * hw * cosine + turn * dx,
    )


@triton.jit
def _load(bev, image, i, j, near, c, channels, height, width):
    """The channels of a pixel, zero outside the map."""
    inside = near & (i >= 0) & (i < height) & (j >= 0) & (j < width)
    at = ((image * height + i) * width + j) * channels
    return tl.load(bev + at + c, mask=c < tl.where(inside, channels, 0), other=0.0)


@_for_any_map
def _forward(
    bev, boxes, tangent, images, where, pooled, batch, channels, height, width, bins, per_bin,
    TANGENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: one bin of one box, BLOCK channels."""
    pid = tl.program_id(0).to(tl.int64)
    n, bin_ = pid // bins, pid % bins
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = bev.dtype.element_ty
    total = tl.zeros((BLOCK,), real)
    for k in range(per_bin):
        image, p, q, cosine, sine, dx, dy, j, i, a, b, near = _sample(
            boxes, images, where, n, bin_ * per_bin + k, batch, height, width
        )
        if TANGENT:
            du, dv = _motion(tangent, n, p, q, cosine, sine, dx, dy)
            cell = tl.load(where + 2)
            du, dv = du / cell, dv / cell
            w00, w10 = -du * (1 - b) - dv * (1 - a), du * (1 - b) - dv * a
            w01, w11 = -du * b + dv * (1 - a), du * b + dv * a
        else:
            w00, w10, w01, w11 = (1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b
        f00 = _load(bev, image, i, j, near, c, channels, height, width)
        f10 = _load(bev, image, i, j + 1, near, c, channels, height, width)
        f01 = _load(bev, image, i + 1, j, near, c, channels, height, width)
        f11 = _load(bev, image, i + 1, j + 1, near, c, channels, height, width)
        value = w00.to(real) * f00 + w10.to(real) * f10 + w01.to(real) * f01 + w11.to(real) * f11
        total += tl.where(near, value, 0.0)
    tl.store(pooled + (n * channels + c) * bins + bin_, total / per_bin, mask=c < channels)


@_for_any_map
def _grad_boxes(
    grad, bev, boxes, tangent, images, where, partial, batch, channels, height, width, samples,
    per_bin, TANGENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: the share of one sample in the gradient of one box, all channels."""
    pid = tl.program_id(0).to(tl.int64)
    n, s = pid // samples, pid % samples
    image, p, q, cosine, sine, dx, dy, j, i, a, b, near = _sample(
        boxes, images, where, n, s, batch, height, width
    )
    across0 = tl.zeros((BLOCK,), bev.dtype.element_ty)
    across1, down = across0, across0
    for block in range(0, channels, BLOCK):
        c = block + tl.arange(0, BLOCK)
        g = tl.load(grad + pid // per_bin * channels + c, mask=c < channels, other=0.0)
        f00 = _load(bev, image, i, j, near, c, channels, height, width)
        f10 = _load(bev, image, i, j + 1, near, c, channels, height, width)
        f01 = _load(bev, image, i + 1, j, near, c, channels, height, width)
        f11 = _load(bev, image, i + 1, j + 1, near, c, channels, height, width)
        across0 += g * (f10 - f00)
        across1 += g * (f11 - f01)
        down += g * (f01 - f00)
    e0, e1 = tl.sum(across0, 0).to(tl.float64), tl.sum(across1, 0).to(tl.float64)
    e2 = tl.sum(down, 0).to(tl.float64)
    cell = tl.load(where + 2)
    per_cell = 1 / (cell * per_bin)
    gu, gv = (e0 + b * (e1 - e0)) * per_cell, (e2 + a * (e1 - e0)) * per_cell
    mx, my = gu, gv
    by_l, by_w, by_yaw = gu * 0, gu * 0, gu * 0
    if TANGENT:
        _, _, hl, hw, turn = _fields(tangent, n)
        move_x, move_y = _motion(tangent, n, p, q, cosine, sine, dx, dy)
        guv = (e1 - e0) * per_cell / cell
        mx, my = guv * move_y, guv * move_x
        by_l = turn * p * (gv * cosine - gu * sine)
        by_w = -turn * q * (gu * cosine + gv * sine)
        by_yaw = gu * (-p * hl * sine - q * hw * cosine - turn * dx)
        by_yaw += gv * (p * hl * cosine - q * hw * sine - turn * dy)
    by_l += p * (mx * cosine + my * sine)
    by_w += q * (my * cosine - mx * sine)
    by_yaw += my * dx - mx * dy
    out = partial + pid * 5
    tl.store(out, tl.where(near, mx, 0.0))
    tl.store(out + 1, tl.where(near, my, 0.0))
    tl.store(out + 2, tl.where(near, by_l, 0.0))
    tl.store(out + 3, tl.where(near, by_w, 0.0))
    tl.store(out + 4, tl.where(near, by_yaw, 0.0))


@triton.jit
def _grad_bev(grad, weights, order, starts, maps, channels, per_bin, BLOCK: tl.constexpr):
    """One program: one pixel, BLOCK channels; gathers from its taps, in the order of the boxes.

    Here `per_bin` is the number of taps per bin.
    """
    pid = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = c < channels
    real = grad.dtype.element_ty
    total = tl.zeros((BLOCK,), real)
    for k in range(tl.load(starts + pid), tl.load(starts + pid + 1)):
        tap = tl.load(order + k)
        g = tl.load(grad + tap // per_bin * channels + c, mask=here, other=0.0)
        total += tl.load(weights + tap).to(real) * g
    tl.store(maps + pid * channels + c, total, mask=here)
