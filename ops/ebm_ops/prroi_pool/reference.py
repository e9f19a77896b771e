"""Precise RoI pooling in plain PyTorch: the definition with which every backend must agree.

The bilinear interpolant of a map `F` is `f(x, y) = sum_ij F[i, j] h(y - i) h(x - j)` with the hat
`h(t) = max(0, 1 - |t|)`: nodes at integer coordinates, zero outside the map. A pooled value is the
mean of `f` over a bin (Jiang et al., "Acquisition of Localization Confidence for Accurate Object
Detection", ECCV 2018, eq. 3). The integral factorises over the axes:

    P[p, q] = sum_i Vy[p, i] sum_j F[i, j] Vx[q, j]
    V[q, j] = (G(b_q - j) - G(a_q - j)) / (b_q - a_q)

with `G` the integral of `h` and `a_q, b_q` the sides of bin `q`. Only the pixels under a box have
a weight, so each box is computed on its own window of the map (`windows.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from ebm_ops.bmm import bmm
from ebm_ops.prroi_pool.windows import axes, groups, windows_of

_MAX_PIXELS = 2**16
"""Pixels that :func:`forward_gathered` copies at a time."""


def forward(features: Tensor, rois: Tensor, output_size: tuple[int, int], scale: float) -> Tensor:
    """Pool; differentiable any number of times with respect to `features` and `rois`.

    Args:
        features: (B, C, H, W), any floating dtype and memory layout.
        rois: (N, 5) floating, `batch_index, x1, y1, x2, y2` in image units.
        output_size: (h, w) bins.
        scale: feature cells per image unit.

    Returns:
        Tensor: (N, C, h, w) in the dtype of `features`.
    """
    check_batch_index(rois, features.shape[0])
    h, w = output_size
    maps = features.permute(0, 2, 3, 1)
    # Zeros that depend on both inputs, so that the result has a graph even if no box has an area.
    nothing = features.flatten()[:0].reshape(0, features.shape[1], h, w)
    parts = [nothing * rois[:0, :1].to(features.dtype).reshape(0, 1, 1, 1)]
    order = [torch.zeros(0, dtype=torch.int64, device=rois.device)]
    for group in groups(rois, features.shape[2:], scale):
        x, y = axes(rois[group.index], scale)
        vx = _weights(*x, w, group.columns).to(features.dtype)
        vy = _weights(*y, h, group.rows).to(features.dtype)
        parts.append(_contract(maps[group.batch, None, group.rows, group.columns], vx, vy))
        order.append(group.index)
    pooled = features.new_zeros(rois.shape[0], features.shape[1], h, w)
    return pooled.index_copy(0, torch.cat(order), torch.cat(parts))


def forward_gathered(
    features: Tensor, rois: Tensor, output_size: tuple[int, int], scale: float
) -> Tensor:
    """As :func:`forward`, with a copy of the map's pixels for each box.

    For scattered boxes these are far fewer and larger operations, which matters when autograd
    differentiates them two and three times.
    """
    check_batch_index(rois, features.shape[0])
    (height, width), (h, w) = features.shape[2:], output_size
    maps = features.permute(0, 2, 3, 1)
    nothing = features.flatten()[:0].reshape(0, features.shape[1], h, w)
    parts = [nothing * rois[:0, :1].to(features.dtype).reshape(0, 1, 1, 1)]
    index, windows = windows_of(rois, (height, width), scale)
    if len(index):
        sides = windows[:, 3:] - windows[:, 1:3]
        count = max(1, _MAX_PIXELS // int(sides[:, 0].max() * sides[:, 1].max()))
        for members, window in zip(index.split(count), windows.split(count)):
            x, y = axes(rois[members], scale)
            tops, lefts = window[:, 1], window[:, 2]
            rows = tops[:, None] + torch.arange(int(sides[:, 0].max()), device=rois.device)
            columns = lefts[:, None] + torch.arange(int(sides[:, 1].max()), device=rois.device)
            # Nodes beyond the map are read inside of it, with weight zero.
            vx = _weights_at(*x, w, columns) * (columns < width)[:, None]
            vy = _weights_at(*y, h, rows) * (rows < height)[:, None]
            pixels = maps[
                window[:, 0, None, None],
                rows.clamp(max=height - 1)[:, :, None],
                columns.clamp(max=width - 1)[:, None],
            ]
            parts.append(_contract(pixels, vx.to(pixels.dtype), vy.to(pixels.dtype)))
    pooled = features.new_zeros(rois.shape[0], features.shape[1], h, w)
    return pooled.index_copy(0, index, torch.cat(parts))


def grad_rois(grad: Tensor, features: Tensor, rois: Tensor, scale: float) -> Tensor:
    """`dL/d rois` in closed form.

    Args:
        grad: (N, C, h, w), `dL/d pooled`.
        features: (B, C, H, W).
        rois: (N, 5).
        scale: feature cells per image unit.

    Returns:
        Tensor: (N, 5), column 0 is zero.
    """
    check_batch_index(rois, features.shape[0])
    h, w = grad.shape[2:]
    maps = features.permute(0, 2, 3, 1)
    result = torch.zeros_like(rois, memory_format=torch.contiguous_format)
    for group in groups(rois, features.shape[2:], scale):
        x, y = axes(rois[group.index], scale)
        window, g = maps[group.batch, None, group.rows, group.columns], grad[group.index]
        vx, x_lower, x_upper = _weights_and_derivatives(*x, w, group.columns, scale)
        vy, y_lower, y_upper = _weights_and_derivatives(*y, h, group.rows, scale)
        pairs = ((x_lower, vy), (vx, y_lower), (x_upper, vy), (vx, y_upper))
        for column, (wx, wy) in enumerate(pairs, start=1):
            slope = _contract(window, wx.to(g.dtype), wy.to(g.dtype))
            result[group.index, column] = (slope * g).sum((1, 2, 3)).to(rois.dtype)
    return result


def grad_features(
    grad: Tensor, rois: Tensor, batch: int, height: int, width: int, scale: float
) -> Tensor:
    """`dL/d features` in closed form.

    Args:
        grad: (N, C, h, w), `dL/d pooled`.
        rois: (N, 5).
        batch, height, width: shape of the features.
        scale: feature cells per image unit.

    Returns:
        Tensor: (B, C, H, W) in channels-last layout.
    """
    check_batch_index(rois, batch)
    _, channels, h, w = grad.shape
    maps = grad.new_zeros(batch, height, width, channels)
    for group in groups(rois, (height, width), scale):
        x, y = axes(rois[group.index], scale)
        vx = _weights(*x, w, group.columns).to(grad.dtype)
        vy = _weights(*y, h, group.rows).to(grad.dtype)
        n, rows, columns = len(vx), vy.shape[2], vx.shape[2]
        g = grad[group.index].permute(0, 2, 3, 1).reshape(n, h, w * channels)
        down = bmm(vy.mT, g).reshape(n, rows, w, channels).transpose(1, 2)
        # The product over bins and boxes at once is their sum.
        down = down.reshape(1, n * w, rows * channels)
        found = bmm(vx.reshape(1, n * w, columns).mT, down).reshape(columns, rows, channels)
        maps[group.batch, group.rows, group.columns] += found.transpose(0, 1)
    return maps.permute(0, 3, 1, 2)


def check_batch_index(rois: Tensor, batch: int) -> None:
    """Raise `ValueError` unless column 0 of `rois` holds integers in `0..batch - 1`.

    On a GPU this waits for the device. While torch compiles, nothing can be read and nothing is
    checked.
    """
    if rois.shape[0] == 0 or torch.compiler.is_compiling():
        return
    index = rois[:, 0].detach()
    bad = ~((index >= 0) & (index < batch) & (index == index.floor()))
    if bad.any():
        n = int(bad.nonzero()[0])
        raise ValueError(
            f"rois[{n}, 0] is the batch index and must be an integer in 0..{batch - 1} for "
            f"features of batch size {batch}, got {index[n].item():g}. "
            "Give RoIs as (batch_index, x1, y1, x2, y2)"
        )


def _hat_integral(t: Tensor) -> Tensor:
    u = t.clamp(-1, 1)
    return 0.5 + u - 0.5 * u * u.abs()


def _edges(lo: Tensor, hi: Tensor, bins: int, nodes: slice) -> tuple[Tensor, Tensor]:
    """Distance (n, bins + 1, nodes) of the bin edges from the nodes, and bin width (n, 1, 1)."""
    at = torch.arange(nodes.start, nodes.stop, dtype=lo.dtype, device=lo.device)
    return _edges_at(lo, hi, bins, at[None])


def _edges_at(lo: Tensor, hi: Tensor, bins: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """As `_edges`, for nodes (n or 1, k) of each box."""
    t = torch.arange(bins + 1, dtype=lo.dtype, device=lo.device) / bins
    edges = lo[:, None] + (hi - lo)[:, None] * t
    return edges[:, :, None] - nodes[:, None], ((hi - lo) / bins)[:, None, None]


def _weights(lo: Tensor, hi: Tensor, bins: int, nodes: slice) -> Tensor:
    """V (n, bins, nodes) of n boxes along one axis."""
    distance, width = _edges(lo, hi, bins, nodes)
    return _hat_integral(distance).diff(dim=1) / width


def _weights_at(lo: Tensor, hi: Tensor, bins: int, nodes: Tensor) -> Tensor:
    """V (n, bins, k) of n boxes along one axis at their nodes (n, k)."""
    distance, width = _edges_at(lo, hi, bins, nodes)
    return _hat_integral(distance).diff(dim=1) / width


def _weights_and_derivatives(
    lo: Tensor, hi: Tensor, bins: int, nodes: slice, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """V and its derivatives by the lower and the upper box side (image units), (n, bins, nodes)."""
    distance, width = _edges(lo, hi, bins, nodes)
    a, b = ((1 + t, t, 1 - t) for t in (distance[:, :-1], distance[:, 1:]))
    value, by_a, by_b = mean_of_hat(a, b, width)
    return value, *by_sides(by_a, by_b, scale)


def mean_of_hat(
    a: Sequence[Tensor], b: Sequence[Tensor], width: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean V of the hat over a bin from `a` to `b`, and its derivatives by both ends.

    These are `(V - h(a)) / w` and `(h(b) - V) / w`, and V itself the difference of two integrals:
    all of them lose digits where bins are thin. So they are sums of the bin's parts, relative to
    its width: under the rising and the falling half of the hat, before it and beyond it.

    Args:
        a: the start of the bin in cells, seen from three points: to the right of the hat's left
            foot, to the right of the node, and to the left of the right foot.
        b: the end of the bin, likewise.
        width: of the bin in cells; all broadcast.

    Returns:
        V, dV/da and dV/db.
    """
    (a_left, a_middle, a_right), (b_left, b_middle, b_right) = a, b

    def part(*lengths: Tensor) -> Tensor:
        return functools.reduce(torch.minimum, lengths, width).clamp(min=0) / width

    one = torch.ones_like(width)
    rising, falling = part(b_left, -a_middle, one), part(a_right, b_middle, one)
    before, beyond = part(-a_left), part(-b_right)
    heights = [t.clamp(0, 1) for t in (a_left, b_left, a_right, b_right)]
    value = 0.5 * (rising * (heights[0] + heights[1]) + falling * (heights[2] + heights[3]))
    at_a, at_b = (torch.minimum(t[0], t[2]).clamp(min=0) / width for t in (a, b))
    half = 0.5 * (rising + falling).square()
    return value, half - falling.square() - beyond * at_a, rising.square() - half + before * at_b


def by_sides(by_a: Tensor, by_b: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Derivatives by the ends of each bin (cells) -> by the lower and the upper side of the box.

    Args:
        by_a: (n, bins, nodes), by the start of each bin.
        by_b: (n, bins, nodes), by its end.
        scale: feature cells per image unit.
    """
    bins = by_a.shape[1]
    t = (torch.arange(bins + 1, dtype=by_a.dtype, device=by_a.device) / bins)[:, None]
    lower = scale * ((1 - t[:-1]) * by_a + (1 - t[1:]) * by_b)
    upper = scale * (t[:-1] * by_a + t[1:] * by_b)
    return lower, upper


def _contract(windows: Tensor, wx: Tensor, wy: Tensor) -> Tensor:
    """`sum_ij wy[n, p, i] windows[n, i, j, c] wx[n, q, j]` -> (n, c, p, q).

    Or all boxes have one window (1, i, j, c), which is then multiplied with all of their columns.
    """
    (n, q, j), p, (several, i, _, c) = wx.shape, wy.shape[1], windows.shape
    columns = windows.transpose(1, 2).reshape(several, j, i * c)
    across = bmm(wx.reshape(several, n // several * q, j), columns)
    across = across.reshape(n, q, i, c).transpose(1, 2).reshape(n, i, q * c)
    return bmm(wy, across).reshape(n, p, q, c).permute(0, 3, 1, 2)
