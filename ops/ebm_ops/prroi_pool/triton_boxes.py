"""Boxes in Triton kernels of precise RoI pooling: their map, and the nodes and weights of each bin.

The weight of a node is the mean over a bin of the node's hat `h(t) = max(0, 1 - |t|)`. As a
difference of two integrals, divided by the width, it would lose its digits where bins are thin, and
its derivatives twice as many. So everything is a sum of parts of the bin, each measured from the
nearest of three points: the feet of the hat and the node.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ebm_ops.prroi_pool.windows import MIN_SIDE

_MIN_SIDE = tl.constexpr(MIN_SIDE)


@triton.jit
def _side(lo, hi, scale, bins):
    """One axis of a box: origin, offset of `lo` from it, bin width, usable. `scale`: to cells.

    Distances are taken from the integer `origin` below `lo`: small numbers keep their digits.
    """
    length, lo, hi = (hi - lo) * scale, lo * scale, hi * scale
    origin = tl.floor(lo)
    # False for NaN as for infinity; a side that overflows is infinite too.
    usable = (tl.abs(lo) < float("inf")) & (tl.abs(hi) < float("inf"))
    usable = usable & (length >= _MIN_SIDE) & (length < float("inf"))
    return origin, lo - origin, length / bins, usable


@triton.jit
def nodes_between(a, b, size):
    """First node under an interval and one past the last, clamped to the map before rounding."""
    first = tl.minimum(tl.maximum(tl.floor(a), 0.0), size * 1.0)
    last = tl.minimum(tl.maximum(tl.ceil(b) + 1.0, 0.0), size * 1.0)
    return first.to(tl.int32), last.to(tl.int32)


@triton.jit
def bin_nodes(origin, offset, width, k, size):
    """The nodes that bin k touches: the first, and one past the last."""
    return nodes_between(origin + (offset + k * width), origin + (offset + (k + 1) * width), size)


@triton.jit
def _edges(origin, offset, width, k, node):
    """Both edges of bin k, seen from the left foot of the node's hat, the node, and its right foot.

    Left of the right foot is positive, as is right of the others.
    """
    at = node - origin
    left, middle, right = offset - (at - 1.0), offset - at, (at + 1.0) - offset
    a, b = k * width, (k + 1) * width
    return left + a, left + b, middle + a, middle + b, right - a, right - b


@triton.jit
def _halves(width, b_left, a_middle, b_middle, a_right):
    """Lengths of the bin's parts under the rising and the falling half of the hat."""
    rising = tl.minimum(tl.minimum(width, b_left), tl.minimum(-a_middle, 1.0))
    falling = tl.minimum(tl.minimum(width, b_middle), tl.minimum(a_right, 1.0))
    return tl.maximum(rising, 0.0), tl.maximum(falling, 0.0)


@triton.jit
def _unit(x):
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit
def weight(origin, offset, width, k, node):
    """V[k, node]: each half of the hat times its mean height, which is that of its ends' mean."""
    a_left, b_left, a_middle, b_middle, a_right, b_right = _edges(origin, offset, width, k, node)
    rising, falling = _halves(width, b_left, a_middle, b_middle, a_right)
    area = rising * (_unit(a_left) + _unit(b_left)) + falling * (_unit(a_right) + _unit(b_right))
    return 0.5 * area / width


@triton.jit
def slopes(origin, offset, width, k, node, bins):
    """Derivatives of V[k, node] by the lower and the upper side of the box, in feature cells.

    Those by the edges of the bin are `(V - h(a)) / w` and `(h(b) - V) / w`. Written out, with the
    parts of the bin under each half of the hat and beyond its feet, no digits cancel.
    """
    a_left, b_left, a_middle, b_middle, a_right, b_right = _edges(origin, offset, width, k, node)
    rising, falling = _halves(width, b_left, a_middle, b_middle, a_right)
    inverse = 1.0 / width
    before = tl.minimum(tl.maximum(-a_left, 0.0), width) * inverse
    beyond = tl.minimum(tl.maximum(-b_right, 0.0), width) * inverse
    rising, falling = rising * inverse, falling * inverse
    half = 0.5 * (rising + falling) * (rising + falling)
    at_a = tl.maximum(tl.minimum(a_left, a_right), 0.0) * inverse
    at_b = tl.maximum(tl.minimum(b_left, b_right), 0.0) * inverse
    by_a = half - falling * falling - beyond * at_a
    by_b = rising * rising - half + before * at_b
    f0 = k.to(width.dtype) / bins  # not float32 in a float64 box
    f1 = (k + 1).to(width.dtype) / bins
    return (1.0 - f0) * by_a + (1.0 - f1) * by_b, f0 * by_a + f1 * by_b


@triton.jit
def map_of_level(level, maps, sizes, scales, LEVELS: tl.constexpr):
    """Map, rows, columns and scale of a level; those of the first if it is out of range."""
    features, rows, columns, scale = maps[0], sizes[0], sizes[1], scales[0]
    for k in tl.static_range(1, LEVELS):
        features = tl.where(level == k, maps[k], features)
        rows = tl.where(level == k, sizes[2 * k], rows)
        columns = tl.where(level == k, sizes[2 * k + 1], columns)
        scale = tl.where(level == k, scales[k], scale)
    rows, columns = tl.cast(rows, tl.int32), tl.cast(columns, tl.int32)
    return features, rows, columns, tl.cast(scale, tl.float64, bitcast=True)


@triton.jit
def level_of(levels, n, LEVELS: tl.constexpr):
    """Level of box n."""
    if LEVELS == 1:
        return n * 0
    else:
        return tl.load(levels + n)


@triton.jit
def box(rois, n, scale, batch, height, width):
    """Image, both axes, and whether the box has an area in one of the images."""
    index = tl.load(rois + n * 5)
    x1, y1 = tl.load(rois + n * 5 + 1), tl.load(rois + n * 5 + 2)
    x2, y2 = tl.load(rois + n * 5 + 3), tl.load(rois + n * 5 + 4)
    scale = scale.to(x1.dtype)
    ox, dx, wx, x_usable = _side(x1, x2, scale, width)
    oy, dy, wy, y_usable = _side(y1, y2, scale, height)
    usable = x_usable & y_usable & (index >= 0) & (index < batch)
    # Finite numbers for boxes without area, because a NaN must not be rounded to an integer.
    ox, dx, wx = tl.where(usable, ox, 0.0), tl.where(usable, dx, 0.0), tl.where(usable, wx, 1.0)
    oy, dy, wy = tl.where(usable, oy, 0.0), tl.where(usable, dy, 0.0), tl.where(usable, wy, 1.0)
    return tl.where(usable, index, 0.0).to(tl.int64), ox, dx, wx, oy, dy, wy, usable


@triton.jit
def pooled_at(n, c, k, channels, bins, BINS_FIRST: tl.constexpr):
    """Where channel c of bin k of box n lies in (N, C, bins), or else in (N, bins, C)."""
    if BINS_FIRST:
        return (n * bins + k) * channels + c
    else:
        return (n * channels + c) * bins + k
