"""The kernels of a climb of boxes in Triton: everything between its pooling and its products.

One climb is the loop of :func:`~ebm_mmdet.energy.gradient_ascent`, written for a fixed number of
boxes whose state stays on the device:

    advance     ∇f from the pooling's gradient, the next proposal, its box and the level of the box
    activate    the first layer's ReLU, forward and backward
    accept      the second layer's ReLU, f, the test of the proposal, and df/d(second layer)

``accept`` and ``advance`` are one program and one warp per box: they read and then overwrite the
state of the box, and threads of several warps would do so in any order.

Nothing here has run on a GPU. The kernels are compared with the loop in Triton's interpreter, and
compiled for real GPUs.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Columns of the inputs of a climb, (N, COLUMNS) float32; each is the first of its four or alone.
REFERENCE, START, STEP_SIZE, MEAN, INVERSE_STD = 0, 4, 8, 12, 16
LOG_NORM, IMAGE, LABEL, COLUMNS = 20, 21, 22, 23

_REFERENCE, _START, _STEP_SIZE = (tl.constexpr(k) for k in (REFERENCE, START, STEP_SIZE))
_MEAN, _INVERSE_STD = tl.constexpr(MEAN), tl.constexpr(INVERSE_STD)
_LOG_NORM, _IMAGE, _LABEL = (tl.constexpr(k) for k in (LOG_NORM, IMAGE, LABEL))
_COLUMNS = tl.constexpr(COLUMNS)
_INFINITY = tl.constexpr(float("inf"))
_NANS = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def _four(a, b, c, d):
    """Four scalars as a vector."""
    k = tl.arange(0, 4)
    return tl.where(k == 0, a, tl.where(k == 1, b, tl.where(k == 2, c, d)))


@triton.jit
def _entry(vector, K: tl.constexpr):
    """Entry K of a vector of four."""
    return tl.sum(tl.where(tl.arange(0, 4) == K, vector, 0.0), 0)


@triton.jit
def _all(mask):
    return tl.min(mask.to(tl.int32), 0) > 0


@triton.jit
def _are_finite(vector):
    return _all(tl.abs(vector) < _INFINITY)


@triton.jit
def _expm1(x):
    """exp(x) - 1; near 0, where the difference cancels, by its series to x^9."""
    series = 1.0 + x / 9
    for k in tl.static_range(7):
        series = 1.0 + x * series / (8 - k)
    return tl.where(tl.abs(x) < 0.5, x * series, tl.exp(x) - 1.0)


@triton.jit
def _offset_from_mean(given, point):
    """Z of a point under the Gaussian prior, and 1 / std; both zero without one."""
    k = tl.arange(0, 4)
    mean, inverse = tl.load(given + _MEAN + k), tl.load(given + _INVERSE_STD + k)
    return tl.where(inverse > 0, (point - mean) * inverse, 0.0), inverse


@triton.jit
def advance(
    inputs, partial, y, origin, slope, size, active, sound, moved, proposal, rois, levels,
    limits, shifts, margin, temperature, tolerance, longest, bins,
    BEGIN: tl.constexpr, BB: tl.constexpr, STOPS: tl.constexpr, LEVELS: tl.constexpr,
    LAST_PIXEL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: the next point at which f of one box is wanted, as a box to be pooled.

    BEGIN: that is the starting point, and the state of the climb is set. Otherwise `partial` (N,
    bins, 5) has the gradient of f to the box at y, and is read where the last step `moved` the box.
    `limits` are areas, ascending: a level's is that of the smallest box beyond it. The region that
    is pooled is wider than the box by `margin` of its sides on each side, and moved by the level's
    entry of `shifts`, in pixels.
    """
    n = tl.program_id(0).to(tl.int64)
    given, at, k = inputs + n * _COLUMNS, n * 4, tl.arange(0, 4)
    left, top = tl.load(given + _REFERENCE), tl.load(given + _REFERENCE + 1)
    right, bottom = tl.load(given + _REFERENCE + 2), tl.load(given + _REFERENCE + 3)
    width = tl.maximum(right - left, 0.0, propagate_nan=_NANS)
    height = tl.maximum(bottom - top, 0.0, propagate_nan=_NANS)
    if BEGIN:
        now = tl.load(given + _START + k)
        query = now
        goes = _are_finite(now)
        tl.store(y + at + k, now)
        tl.store(slope + at + k, tl.zeros((4,), tl.float32))
        tl.store(size + at + k, tl.load(given + _STEP_SIZE + k))
        tl.store(active + n, goes.to(tl.int32))
        tl.store(proposal + at + k, now)
    else:
        now, before = tl.load(y + at + k), tl.load(slope + at + k)
        bin = tl.arange(0, BLOCK)
        here, sides = bin < bins, partial + n * bins * 5 + bin * 5
        by_left = tl.sum(tl.load(sides + 1, mask=here, other=0.0), 0)
        by_top = tl.sum(tl.load(sides + 2, mask=here, other=0.0), 0)
        by_right = tl.sum(tl.load(sides + 3, mask=here, other=0.0), 0)
        by_bottom = tl.sum(tl.load(sides + 4, mask=here, other=0.0), 0)
        # From the region to the box: each side of the region moves with both sides of the box.
        wider, higher = margin * (by_right - by_left), margin * (by_bottom - by_top)
        by_left, by_right = by_left - wider, by_right + wider
        by_top, by_bottom = by_top - higher, by_bottom + higher
        grow_x, grow_y = 1.0 + _expm1(_entry(now, 2)), 1.0 + _expm1(_entry(now, 3))
        found = _four(
            width * (by_left + by_right),
            height * (by_top + by_bottom),
            0.5 * width * grow_x * (by_right - by_left),
            0.5 * height * grow_y * (by_bottom - by_top),
        )
        z, inverse = _offset_from_mean(given, now)
        did_move = tl.load(moved + n) > 0
        there = tl.where(did_move, temperature * found - z * inverse, before)
        step = tl.load(size + at + k)
        if BB:  # see `ebm_mmdet.energy.steps.barzilai_borwein`
            unit, fall = tl.load(given + _STEP_SIZE + k), before - there
            way = now - tl.load(origin + at + k)
            length = tl.sum(way * fall, 0) / tl.sum(unit * fall * fall, 0)
            learnt = tl.where(length > 0, tl.minimum(length, longest) * unit, 2 * step)
            step = tl.where(did_move, learnt, step)
            tl.store(size + at + k, step)
        wanted = now + step * there
        goes = (tl.load(active + n) > 0) & _are_finite(there)
        goes &= tl.max((wanted != now).to(tl.int32), 0) > 0
        if STOPS:
            goes &= tl.sum((wanted - now) * there, 0) >= tolerance
        tl.store(active + n, goes.to(tl.int32))
        goes &= _are_finite(wanted)
        query = tl.where(goes, wanted, now)
        tl.store(slope + at + k, there)
        tl.store(proposal + at + k, wanted)
    tl.store(sound + n, goes.to(tl.int32))

    across, along = 0.5 * _expm1(_entry(query, 2)), 0.5 * _expm1(_entry(query, 3))
    right += width * (_entry(query, 0) + across)
    left += width * (_entry(query, 0) - across)
    bottom += height * (_entry(query, 1) + along)
    top += height * (_entry(query, 1) - along)
    area = tl.maximum(right - left, 0.0) * tl.maximum(bottom - top, 0.0)
    level, shift = LEVELS - 1, shifts[LEVELS - 1]
    for i in tl.static_range(LEVELS - 1):
        below = area < limits[LEVELS - 2 - i]
        level = tl.where(below, LEVELS - 2 - i, level)
        shift = tl.where(below, shifts[LEVELS - 2 - i], shift)
    if LAST_PIXEL:
        right = tl.maximum(right - 1.0, left, propagate_nan=_NANS)
        bottom = tl.maximum(bottom - 1.0, top, propagate_nan=_NANS)
    across = margin * tl.maximum(right - left, 0.0, propagate_nan=_NANS)
    along = margin * tl.maximum(bottom - top, 0.0, propagate_nan=_NANS)
    left, right, top, bottom = left - across, right + across, top - along, bottom + along
    region = _four(left + shift, top + shift, right + shift, bottom + shift)
    tl.store(rois + n * 5, tl.load(given + _IMAGE))
    tl.store(rois + n * 5 + 1 + k, region)
    tl.store(levels + n, level)


@triton.jit
def accept(
    inputs, hidden, bias, weight, weight_bias, rois, y, origin, f, size, active, sound, moved,
    proposal, accepted, back, temperature, decay, rows, width,
    BEGIN: tl.constexpr, BB: tl.constexpr, HALVES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: f of one box, and whether its step is taken; `back` is df/d(hidden + bias).

    `hidden` (HALVES N, width) is a product with the second layer's weights, in HALVES summands.
    BEGIN: f is that of the starting point.
    """
    n = tl.program_id(0).to(tl.int64)
    given, at, k = inputs + n * _COLUMNS, n * 4, tl.arange(0, 4)
    label = tl.load(given + _LABEL).to(tl.int64)
    total = tl.zeros((BLOCK,), tl.float32)
    for block in range(0, width, BLOCK):
        i = block + tl.arange(0, BLOCK)
        here = i < width
        h = tl.load(hidden + n * width + i, mask=here, other=0.0)
        if HALVES == 2:
            h += tl.load(hidden + (rows + n) * width + i, mask=here, other=0.0)
        h = tl.maximum(h + tl.load(bias + i, mask=here, other=0.0), 0.0, propagate_nan=_NANS)
        w = tl.load(weight + label * width + i, mask=here, other=0.0)
        total += h * w
        _store(back, tl.where(h <= 0, 0.0, w), n * width + i, rows * width, here, HALVES)
    value = tl.sum(total, 0) + tl.load(weight_bias + label)
    wanted = tl.load(proposal + at + k)
    z, _ = _offset_from_mean(given, wanted)
    value = temperature * value - 0.5 * tl.sum(z * z, 0) - tl.load(given + _LOG_NORM)
    known = (tl.abs(value) < _INFINITY) & _are_finite(tl.load(rois + n * 5 + 1 + k))
    if BEGIN:
        tl.store(f + n, tl.where(known, value, float("-inf")))
        tl.store(moved + n, tl.load(active + n))  # whose gradient is wanted
        tl.store(accepted + n, tl.zeros((), tl.int64))
    else:
        now, best, step = tl.load(y + at + k), tl.load(f + n), tl.load(size + at + k)
        count = tl.load(accepted + n)
        goes = (tl.load(sound + n) > 0) & known & (value >= best)
        if BB:
            tl.store(origin + at + k, tl.where(goes, now, tl.load(origin + at + k)))
        tl.store(y + at + k, tl.where(goes, wanted, now))
        tl.store(f + n, tl.where(goes, value, best))
        tl.store(size + at + k, tl.where(goes, step, decay * step))
        tl.store(moved + n, goes.to(tl.int32))
        tl.store(accepted + n, count + goes.to(tl.int64))


@triton.jit
def activate(
    x, bias, hidden, out, count, width,
    ACTION: tl.constexpr, HALVES: tl.constexpr, OUT_HALVES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK of `count` numbers, each given in HALVES summands, and written in others.

    ACTION: `"relu"`, of x + bias, which is also kept in `hidden` (float32); `"mask"`, x where
    `hidden` is not zero; or `"copy"`.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    value = tl.load(x + at, mask=here, other=0.0)
    if HALVES == 2:
        value += tl.load(x + count + at, mask=here, other=0.0)
    if ACTION == "relu":
        value += tl.load(bias + at % width, mask=here, other=0.0)
        value = tl.maximum(value, 0.0, propagate_nan=_NANS)
        tl.store(hidden + at, value, mask=here)
    elif ACTION == "mask":
        value = tl.where(tl.load(hidden + at, mask=here, other=0.0) <= 0, 0.0, value)
    _store(out, value, at, count, here, OUT_HALVES)


@triton.jit
def _store(out, value, at, count, here, HALVES: tl.constexpr):
    """Write float32 numbers; with HALVES == 2 as two bfloat16, the rounded ones and the rests."""
    if HALVES == 2:
        high = value.to(tl.bfloat16)
        tl.store(out + at, high, mask=here)
        rest = (value - high.to(tl.float32)).to(tl.bfloat16)
        tl.store(out + count + at, rest, mask=here)
    else:
        tl.store(out + at, value, mask=here)
