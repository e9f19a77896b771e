"""Precise RoI pooling of boxes that lie on several maps, each on one: a call for all levels.

It is :func:`ebm_ops.prroi_pool` on each map with the boxes of that level, written into the rows of
those boxes; that is also how it is computed on a CPU (`by_level.py`). On a GPU it is one launch,
for which nothing has to be read back, sorted or put together.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from ebm_ops import backends
from ebm_ops.double_backward import double_backward
from ebm_ops.prroi_pool import _check as check_one_map
from ebm_ops.prroi_pool import by_level, reference

_LIBRARY = torch.library.Library("ebm_ops", "FRAGMENT")
_LIBRARY.define(
    "prroi_pool_levels(Tensor[] features, Tensor rois, Tensor levels, SymInt pooled_height, "
    "SymInt pooled_width, float[] scales) -> Tensor"
)
_LIBRARY.define(
    "prroi_pool_levels_grad_rois(Tensor grad, Tensor[] features, Tensor rois, Tensor levels, "
    "float[] scales) -> Tensor"
)
_LIBRARY.define(
    "prroi_pool_levels_grad_features(Tensor grad, Tensor rois, Tensor levels, SymInt batch, "
    "SymInt[] sizes, float[] scales) -> Tensor[]"
)
_OPS = torch.ops.ebm_ops


def prroi_pool_levels(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    output_size: int | tuple[int, int],
    spatial_scales: Sequence[float],
    backend: str = "auto",
    validate: bool = True,
) -> Tensor:
    """:func:`prroi_pool` of each box on the map of its level.

        out[n] = prroi_pool(features[l], rois[n : n + 1], output_size, spatial_scales[l])[0]

    with `l = levels[n]`. The numbers are those of these calls, on a CPU with the C++ extension bit
    for bit.

    Args:
        features: the map of each level, (B, C, H_l, W_l), floating. Maps in
            `memory_format=torch.channels_last` are not copied.
        rois: (N, 5), floating: `batch_index, x1, y1, x2, y2`, half-open, in image units.
        levels: (N,) integers in `0..L - 1`, the map of each box.
        output_size: bins `(h, w)`, or one number for both.
        spatial_scales: feature cells per image unit on each map, i.e. 1 / stride.
        backend: as in :func:`prroi_pool`.
        validate: on a GPU, wait for the device and check both indices. False: the caller has done
            so, and a box with an index of an image or a level out of range counts as one without
            area. On a CPU the check costs nothing and is always made.

    Returns:
        Tensor: (N, C, h, w), contiguous, in the dtype of `features`. Differentiable with respect to
        the maps and `rois` any number of times, as :func:`prroi_pool`. With the C++ and Triton
        kernels the same bits in every run, for any number of threads and whatever the other boxes.

    Raises:
        ValueError: wrong shape, output size, scale or backend, other numbers of maps and scales, or
            an index of an image or a level that is no integer in range (on a GPU, see `validate`).
        TypeError: `features` or `rois` are not floating, or `levels` are not integers.
        RuntimeError: the required backend is not available.
    """
    features, scales = list(features), [float(scale) for scale in spatial_scales]
    height, width = _check(features, rois, levels, output_size, scales)
    like = features[0]
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    maps = [x.to(dtype).contiguous(memory_format=torch.channels_last) for x in features]
    boxes, levels = rois.to(dtype), levels.to(torch.int64)
    if backend == "reference":
        size = (height, width)
        pooled = by_level.forward(maps, boxes, levels, size, scales, reference.forward)
    else:
        backends.require(backend, like.device.type)
        if validate and like.is_cuda:
            reference.check_batch_index(boxes, len(like))
            by_level.check_levels(levels, len(maps))
        pooled = _OPS.prroi_pool_levels(maps, boxes, levels, height, width, scales)
    return pooled.to(like.dtype)


def _check(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    output_size: int | tuple[int, int],
    scales: Sequence[float],
) -> tuple[int, int]:
    if not features or len(features) != len(scales):
        raise ValueError(
            f"features and spatial_scales must have one entry for each level, got {len(features)} "
            f"maps and {len(scales)} scales"
        )
    for one, scale in zip(features, scales):
        size = check_one_map(one, rois, output_size, scale)
    like = features[0]
    if any(x.shape[:2] != like.shape[:2] or x.dtype != like.dtype for x in features):
        raise ValueError(
            "all maps must have the same batch size, channels and dtype, got "
            + ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in features)
        )
    if levels.shape != rois.shape[:1]:
        raise ValueError(
            f"levels must have shape (N,) = ({rois.shape[0]},), got {tuple(levels.shape)}"
        )
    if levels.is_floating_point() or levels.is_complex() or levels.dtype == torch.bool:
        raise TypeError(f"levels must be integers, got {levels.dtype}; use levels.long()")
    if levels.device != rois.device:
        raise ValueError(f"levels are on {levels.device} but rois on {rois.device}")
    return size


@torch.library.register_fake("ebm_ops::prroi_pool_levels", lib=_LIBRARY)
def _(features, rois, levels, pooled_height, pooled_width, scales):
    shape = rois.shape[0], features[0].shape[1], pooled_height, pooled_width
    return features[0].new_empty(shape)


@torch.library.register_fake("ebm_ops::prroi_pool_levels_grad_rois", lib=_LIBRARY)
def _(grad, features, rois, levels, scales):
    return rois.new_empty(rois.shape)


@torch.library.register_fake("ebm_ops::prroi_pool_levels_grad_features", lib=_LIBRARY)
def _(grad, rois, levels, batch, sizes, scales):
    layout = dict(dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last)
    channels = grad.shape[1]
    return [
        torch.empty((batch, channels, height, width), **layout)
        for height, width in zip(sizes[::2], sizes[1::2])
    ]


def _save_forward(ctx, inputs, output):
    features, rois, levels, _, _, ctx.scales = inputs
    ctx.save_for_backward(rois, levels, *features)


def _backward_forward(ctx, grad):
    """Compute each gradient only if it is needed: refinement needs that of the boxes alone."""
    rois, levels, *features = ctx.saved_tensors
    by_features, by_rois = [None] * len(features), None
    if any(ctx.needs_input_grad[0]):
        sizes = [size for one in features for size in one.shape[2:]]
        by_features = _OPS.prroi_pool_levels_grad_features(
            grad, rois, levels, features[0].shape[0], sizes, ctx.scales
        )
    if ctx.needs_input_grad[1]:
        by_rois = _OPS.prroi_pool_levels_grad_rois(grad, features, rois, levels, ctx.scales)
    return by_features, by_rois, None, None, None, None


def _save_grad_features(ctx, inputs, output):
    grad, rois, levels, _, _, ctx.scales = inputs
    ctx.save_for_backward(grad, rois, levels)


def _backward_grad_features(ctx, upstream):
    """`<u, dL/dF> = <dL/dP, pool(u)>`: the derivatives are those of pooling `u`."""
    grad, rois, levels = ctx.saved_tensors
    by_grad = by_rois = None
    if ctx.needs_input_grad[0]:
        by_grad = _OPS.prroi_pool_levels(upstream, rois, levels, *grad.shape[2:], ctx.scales)
    if ctx.needs_input_grad[1]:
        by_rois = _OPS.prroi_pool_levels_grad_rois(grad, upstream, rois, levels, ctx.scales)
    return by_grad, by_rois, None, None, None, None


def _save_grad_rois(ctx, inputs, output):
    grad, features, rois, levels, ctx.scales = inputs
    ctx.save_for_backward(levels, grad, rois, *features)


def _backward_grad_rois(ctx, upstream):
    """The reference computes the derivatives of the box gradient, to any order."""
    levels, grad, rois, *features = ctx.saved_tensors
    size, scales = tuple(grad.shape[2:]), ctx.scales
    of_grad, of_features, of_rois, *_ = ctx.needs_input_grad

    def pool(rois, *features):
        return by_level.forward(features, rois, levels, size, scales, reference.forward_gathered)

    by_grad, by_rois, *by_features = double_backward(
        pool, grad, rois, features, upstream, [of_grad, of_rois, *of_features]
    )
    return by_grad, by_features, by_rois, None, None


for _name, _backward, _save in (
    ("prroi_pool_levels", _backward_forward, _save_forward),
    ("prroi_pool_levels_grad_features", _backward_grad_features, _save_grad_features),
    ("prroi_pool_levels_grad_rois", _backward_grad_rois, _save_grad_rois),
):
    torch.library.register_autograd(
        f"ebm_ops::{_name}", _backward, setup_context=_save, lib=_LIBRARY
    )


def _kernels_by_level() -> dict:
    """The three operators by those of one map, for a device without kernels of its own."""

    def pool(features, rois, size, scale):
        return _OPS.prroi_pool(features, rois, *size, scale)

    def forward(features, rois, levels, height, width, scales):
        return by_level.forward(features, rois, levels, (height, width), scales, pool)

    def grad_rois(*args):
        return by_level.grad_rois(*args, _OPS.prroi_pool_grad_rois)

    def grad_features(*args):
        return by_level.grad_features(*args, _OPS.prroi_pool_grad_features)

    return {
        "prroi_pool_levels": forward,
        "prroi_pool_levels_grad_rois": grad_rois,
        "prroi_pool_levels_grad_features": grad_features,
    }


def _triton_kernels() -> dict:
    """The three operators in Triton, which is imported when the first of them is called."""
    late = functools.partial(backends.late, "ebm_ops.prroi_pool.triton")
    return {
        "prroi_pool_levels": late("forward_levels"),
        "prroi_pool_levels_grad_rois": late("grad_rois_levels"),
        "prroi_pool_levels_grad_features": late("grad_features_levels"),
    }


def _register() -> None:
    info = backends.backend_info()
    # Also where the extension is older than these operators.
    if info["cpu"].name == "reference" or backends.extension_lacks("prroi_pool_levels"):
        for name, kernel in _kernels_by_level().items():
            _LIBRARY.impl(name, kernel, "CPU")
    on_gpu = _triton_kernels() if info["cuda"].name == "triton" else _kernels_by_level()
    for name, kernel in on_gpu.items():
        _LIBRARY.impl(name, kernel, "CUDA")


_register()
