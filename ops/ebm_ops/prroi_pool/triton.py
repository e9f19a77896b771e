"""Precise RoI pooling for GPUs in Triton. The formulas are those of `reference.py`.

There are no atomics: every number is written by one program that sums in a fixed order, so results
have the same bits in every run. The cost is in the gradient to the features, where each pixel goes
through every box of its image.

Nothing here waits for the device: a batch index out of range is not an error, as in the other
backends, but makes a box without area. `prroi_pool` checks it where that is wanted.

Checked against the reference in Triton's interpreter (`TRITON_INTERPRET=1`) on small shapes; not
yet run or timed on a real GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ebm_ops.prroi_pool.reference import MIN_SIDE
from ebm_ops.triton_launch import launch_options

_MIN_SIDE = tl.constexpr(MIN_SIDE)
# Else there is a variant, compiled in mid-inference, for every way in which 16 divides the sizes.
_for_any_map = triton.jit(do_not_specialize=["batch", "rows", "columns"])


def forward(features: Tensor, rois: Tensor, height: int, width: int, scale: float) -> Tensor:
    """(B, C, H, W), (N, 5) -> (N, C, height, width). Arguments as in `reference.forward`."""
    batch, channels, rows, columns = features.shape
    pooled = features.new_empty(rois.shape[0], channels, height, width)
    if pooled.numel():
        maps = features.contiguous(memory_format=torch.channels_last)
        block, options = launch_options(channels)
        grid = (rois.shape[0] * height * width, triton.cdiv(channels, block))
        with torch.cuda.device_of(features):
            _forward[grid](
                maps, *_boxes(rois, scale), pooled, batch, channels, rows, columns, height, width,
                block, **options,
            )  # fmt: skip
    return pooled


def grad_rois(grad: Tensor, features: Tensor, rois: Tensor, scale: float) -> Tensor:
    """`dL/d rois` (N, 5) of `dL/d pooled` (N, C, h, w). Arguments as in `reference.grad_rois`."""
    count, channels, height, width = grad.shape
    if not grad.numel():
        return torch.zeros_like(rois, memory_format=torch.contiguous_format)
    partial = rois.new_empty(count, height * width, 5)
    block, options = launch_options(channels)
    with torch.cuda.device_of(features):
        _grad_rois[(count * height * width,)](
            grad.contiguous(), features.contiguous(memory_format=torch.channels_last),
            *_boxes(rois, scale), partial, *features.shape, height, width, block, **options,
        )  # fmt: skip
    return partial.sum(1).mul_(scale)


def grad_features(
    grad: Tensor, rois: Tensor, batch: int, height: int, width: int, scale: float
) -> Tensor:
    """`dL/d features` (B, C, H, W), channels last. Arguments as in `reference.grad_features`."""
    channels = grad.shape[1]
    maps = grad.new_empty(batch, height, width, channels)
    if maps.numel():
        order = torch.sort(rois[:, 0], stable=True)
        images = torch.arange(batch + 1, device=rois.device, dtype=rois.dtype)
        starts = torch.searchsorted(order.values.contiguous(), images)
        block, options = launch_options(channels)
        grid = (batch * height * width, triton.cdiv(channels, block))
        with torch.cuda.device_of(grad):
            _grad_features[grid](
                _bins_first(grad), *_boxes(rois, scale), order.indices, starts, maps, batch,
                channels, height, width, *grad.shape[2:], block, **options,
            )  # fmt: skip
    return maps.permute(0, 3, 1, 2)


def _boxes(rois: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Boxes, whose image is read, and boxes in feature cells, whose sides are read.

    Scaled here because float arguments of the kernels are float32; all columns in one operation.
    """
    rois = rois.contiguous()
    return rois, rois * scale


def _bins_first(grad: Tensor) -> Tensor:
    """(N, C, h, w) -> contiguous (N, h, w, C): neighbouring threads hold neighbouring channels."""
    return grad.permute(0, 2, 3, 1).contiguous()


@triton.jit
def _side(lo, hi, bins, size):
    """One axis of a box: origin, offset of `lo` from it, bin width, usable.

    Distances are taken from the integer `origin` below `lo`: small numbers keep their digits.
    """
    origin = tl.floor(lo)
    # False for NaN as for infinity; a side that overflows is infinite too.
    usable = (tl.abs(lo) < float("inf")) & (tl.abs(hi) < float("inf"))
    usable = usable & (hi - lo >= _MIN_SIDE) & (hi - lo < float("inf"))
    return origin, lo - origin, (hi - lo) / bins, usable


@triton.jit
def _nodes(a, b, size):
    """First node under an interval and one past the last, clamped to the map before rounding."""
    first = tl.minimum(tl.maximum(tl.floor(a), 0.0), size * 1.0)
    last = tl.minimum(tl.maximum(tl.ceil(b) + 1.0, 0.0), size * 1.0)
    return first.to(tl.int32), last.to(tl.int32)


@triton.jit
def _bin_nodes(origin, offset, width, k, size):
    return _nodes(origin + (offset + k * width), origin + (offset + (k + 1) * width), size)


@triton.jit
def _weight(origin, offset, width, k, node):
    """V[k, node]: the mean over bin k of the node's hat.

    The difference of the hat's integral at both ends, written so that nothing cancels.
    """
    at = node - origin
    t0 = tl.minimum(tl.maximum(offset + k * width - at, -1.0), 1.0)
    t1 = tl.minimum(tl.maximum(offset + (k + 1) * width - at, -1.0), 1.0)
    one_sided = (t1 - t0) * (1.0 - 0.5 * tl.abs(t0 + t1))
    across = t1 * (1.0 - 0.5 * t1) - t0 * (1.0 + 0.5 * t0)
    return tl.where(t0 * t1 >= 0.0, one_sided, across) / width


@triton.jit
def _slopes(origin, offset, width, k, node, value, bins):
    """Derivatives of V[k, node] by the lower and the upper side of the box, in feature cells."""
    at = node - origin
    h0 = tl.maximum(1.0 - tl.abs(offset + k * width - at), 0.0)
    h1 = tl.maximum(1.0 - tl.abs(offset + (k + 1) * width - at), 0.0)
    by_a, by_b = (value - h0) / width, (h1 - value) / width
    f0, f1 = (
        k.to(width.dtype) / bins,
        (k + 1).to(width.dtype) / bins,
    )  # not float32 in a float64 box
    return (1.0 - f0) * by_a + (1.0 - f1) * by_b, f0 * by_a + f1 * by_b


@triton.jit
def _box(rois, cells, n, batch, rows, columns, height, width):
    """Image, both axes, and whether the box has an area in one of the images."""
    index = tl.load(rois + n * 5)
    x1, y1 = tl.load(cells + n * 5 + 1), tl.load(cells + n * 5 + 2)
    x2, y2 = tl.load(cells + n * 5 + 3), tl.load(cells + n * 5 + 4)
    ox, dx, wx, x_usable = _side(x1, x2, width, columns)
    oy, dy, wy, y_usable = _side(y1, y2, height, rows)
    usable = x_usable & y_usable & (index >= 0) & (index < batch)
    # Finite numbers for boxes without area, because a NaN must not be rounded to an integer.
    ox, dx, wx = tl.where(usable, ox, 0.0), tl.where(usable, dx, 0.0), tl.where(usable, wx, 1.0)
    oy, dy, wy = tl.where(usable, oy, 0.0), tl.where(usable, dy, 0.0), tl.where(usable, wy, 1.0)
    return tl.where(usable, index, 0.0).to(tl.int64), ox, dx, wx, oy, dy, wy, usable


@_for_any_map
def _forward(
    features, rois, cells, pooled, batch, channels, rows, columns, height, width,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: one bin of one box, BLOCK channels."""
    pid = tl.program_id(0)
    n, p, q = (pid // (height * width)).to(tl.int64), pid // width % height, pid % width
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = c < channels
    image, ox, dx, wx, oy, dy, wy, usable = _box(
        rois, cells, n, batch, rows, columns, height, width
    )
    j0, j1 = _bin_nodes(ox, dx, wx, q, columns)
    i0, i1 = _bin_nodes(oy, dy, wy, p, rows)
    i1 = tl.where(usable, i1, i0)
    total = tl.zeros((BLOCK,), features.dtype.element_ty)
    for i in range(i0, i1):
        row = tl.zeros((BLOCK,), features.dtype.element_ty)
        for j in range(j0, j1):
            at = ((image * rows + i) * columns + j) * channels
            row += _weight(ox, dx, wx, q, j) * tl.load(features + at + c, mask=here, other=0.0)
        total += _weight(oy, dy, wy, p, i) * row
    tl.store(pooled + (n * channels + c) * (height * width) + p * width + q, total, mask=here)


@_for_any_map
def _grad_rois(
    grad, features, rois, cells, partial, batch, channels, rows, columns, height, width,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: the share of one bin in the gradient of one box, all channels."""
    pid = tl.program_id(0)
    n, p, q = (pid // (height * width)).to(tl.int64), pid // width % height, pid % width
    image, ox, dx, wx, oy, dy, wy, usable = _box(
        rois, cells, n, batch, rows, columns, height, width
    )
    j0, j1 = _bin_nodes(ox, dx, wx, q, columns)
    i0, i1 = _bin_nodes(oy, dy, wy, p, rows)
    i1 = tl.where(usable, i1, i0)
    x1 = tl.zeros((BLOCK,), features.dtype.element_ty)
    y1, x2, y2 = x1, x1, x1
    for block in range(0, channels, BLOCK):
        c = block + tl.arange(0, BLOCK)
        here = c < channels
        out = grad + (n * channels + c) * (height * width) + p * width + q
        g = tl.load(out, mask=here, other=0.0)
        for i in range(i0, i1):
            vy = _weight(oy, dy, wy, p, i)
            y_lower, y_upper = _slopes(oy, dy, wy, p, i, vy, height)
            t = tl.zeros((BLOCK,), features.dtype.element_ty)
            lower, upper = t, t
            for j in range(j0, j1):
                vx = _weight(ox, dx, wx, q, j)
                x_lower, x_upper = _slopes(ox, dx, wx, q, j, vx, width)
                at = ((image * rows + i) * columns + j) * channels
                f = tl.load(features + at + c, mask=here, other=0.0)
                t += vx * f
                lower += x_lower * f
                upper += x_upper * f
            x1 += vy * g * lower
            x2 += vy * g * upper
            y1 += y_lower * g * t
            y2 += y_upper * g * t
    to = partial + pid.to(tl.int64) * 5
    tl.store(to, ox * 0.0)  # the image has no gradient; `ox` is finite
    tl.store(to + 1, tl.sum(x1, 0))
    tl.store(to + 2, tl.sum(y1, 0))
    tl.store(to + 3, tl.sum(x2, 0))
    tl.store(to + 4, tl.sum(y2, 0))


@_for_any_map
def _grad_features(
    grad, rois, cells, order, starts, maps, batch, channels, rows, columns, height, width,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: one pixel, BLOCK channels; gathers from the boxes of its image, in order."""
    pid = tl.program_id(0).to(tl.int64)
    image, i, j = pid // (rows * columns), pid // columns % rows, pid % columns
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = c < channels
    total = tl.zeros((BLOCK,), grad.dtype.element_ty)
    for k in range(tl.load(starts + image), tl.load(starts + image + 1)):
        n = tl.load(order + k)
        _, ox, dx, wx, oy, dy, wy, usable = _box(
            rois, cells, n, batch, rows, columns, height, width
        )
        # The bins within one cell of the pixel; those that only come near it have weight zero.
        q0, q1 = _nodes((j - 1 - ox - dx) / wx, (j + 1 - ox - dx) / wx, width)
        p0, p1 = _nodes((i - 1 - oy - dy) / wy, (i + 1 - oy - dy) / wy, height)
        p1 = tl.where(usable, p1, p0)
        for p in range(p0, p1):
            row = tl.zeros((BLOCK,), grad.dtype.element_ty)
            for q in range(q0, q1):
                at = ((n * height + p) * width + q) * channels
                row += _weight(ox, dx, wx, q, j) * tl.load(grad + at + c, mask=here, other=0.0)
            total += _weight(oy, dy, wy, p, i) * row
    tl.store(maps + pid * channels + c, total, mask=here)
