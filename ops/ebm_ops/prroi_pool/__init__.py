"""Precise RoI pooling: the exact mean of the bilinear interpolant over each bin of a box.

The backend's own kernels compute the first derivatives in closed form, each only if it is needed;
the reference computes the higher ones. The operators are `torch.ops.ebm_ops.prroi_pool` and its two
gradients, so that `torch.compile` and export treat them as one node.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from ebm_ops import backends
from ebm_ops.double_backward import double_backward
from ebm_ops.prroi_pool import reference

_LIBRARY = torch.library.Library("ebm_ops", "FRAGMENT")
_LIBRARY.define(
    "prroi_pool(Tensor features, Tensor rois, SymInt pooled_height, SymInt pooled_width, "
    "float spatial_scale) -> Tensor"
)
_LIBRARY.define(
    "prroi_pool_grad_rois(Tensor grad, Tensor features, Tensor rois, float spatial_scale) -> Tensor"
)
_LIBRARY.define(
    "prroi_pool_grad_features(Tensor grad, Tensor rois, SymInt batch, SymInt height, "
    "SymInt width, float spatial_scale) -> Tensor"
)
_OPS = torch.ops.ebm_ops


def prroi_pool(
    features: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float,
    backend: str = "auto",
    validate: bool = True,
) -> Tensor:
    """Average the bilinear interpolant of `features` exactly over the bins of each box.

    With `f(x, y) = sum_ij F[i, j] max(0, 1 - |y - i|) max(0, 1 - |x - j|)` (nodes at integer
    feature coordinates, zero outside the map) and `A`, the area of bin `(p, q)`:

        out[n, c, p, q] = (1 / A) * integral over bin (p, q) of f

    Box coordinates are multiplied by `spatial_scale`; there is no rounding, no half-pixel shift
    and no "+1". (To read a map where RoIAlign with `aligned=True` reads it, shift the boxes by
    `-0.5 / spatial_scale`.) Source: Jiang et al., ECCV 2018, eq. 3 and 4.

    Every box has a result, as do empty inputs:

    =====================================  ====================================================
    no boxes, or an empty map              (0, C, h, w), or zeros
    no area, inverted, side < 1e-5 cells   zeros; zero gradient to box and features
    a coordinate is NaN or infinite        zeros; zero gradient to box and features
    partly outside the map                 the zeros outside are averaged in
    outside the map by a cell or more      zeros; zero gradient
    huge (1e9)                             as partly outside: the map's sum over a huge area
    =====================================  ====================================================

    Args:
        features: (B, C, H, W), floating. A map in `memory_format=torch.channels_last` is not
            copied; any other layout is converted once per call.
        rois: (N, 5), floating: `batch_index, x1, y1, x2, y2`, half-open, in image units.
        output_size: bins `(h, w)`, or one number for both.
        spatial_scale: feature cells per image unit, i.e. 1 / stride.
        backend: `"auto"` (C++ on a CPU, Triton on a GPU, else the reference), or one of `"cpp"`,
            `"triton"`, `"reference"` to require that one.
        validate: on a GPU, wait for the device and check the batch index. False: the caller has
            done so, and a box with an index outside `0..B - 1` counts as one without area. On a CPU
            the check costs nothing and is always made.

    Returns:
        Tensor: (N, C, h, w), contiguous, in the dtype of `features`. float16 and bfloat16 are
        computed in float32. Differentiable with respect to `features` and `rois` any number of
        times: the backend computes first derivatives, the reference higher ones. Values and first
        derivatives keep their digits where bins are thin. The C++ and Triton kernels give the same
        bits in every run, for any number of threads, and the bits of a box do not depend on the
        other boxes; another processor may round differently.

    Raises:
        ValueError: wrong shape, output size, scale or backend, or a batch index that is not an
            integer in `0..B - 1` (on a GPU, see `validate`).
        TypeError: `features` or `rois` are not floating.
        RuntimeError: the required backend is not available.
    """
    height, width = _check(features, rois, output_size, spatial_scale)
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    maps = features.to(dtype).contiguous(memory_format=torch.channels_last)
    boxes = rois.to(dtype)
    if backend == "reference":
        pooled = reference.forward(maps, boxes, (height, width), float(spatial_scale))
    else:
        backends.require(backend, features.device.type)
        if validate and features.is_cuda:
            reference.check_batch_index(boxes, features.shape[0])
        pooled = _OPS.prroi_pool(maps, boxes, height, width, float(spatial_scale))
    return pooled.to(features.dtype)


class PrRoIPool(nn.Module):
    """:func:`prroi_pool` as a module; fits the `roi_layer` slot of mmdet's RoI extractors.

    In a config, give the class itself, ``roi_layer=dict(type=PrRoIPool, output_size=7)``, because
    the string ``'PrRoIPool'`` names mmcv's operator, which needs CUDA.

    Args:
        output_size: bins `(h, w)`, or one number for both.
        spatial_scale: feature cells per image unit, i.e. 1 / stride.
        backend: as in :func:`prroi_pool`.
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.output_size = _pair(output_size)
        self.spatial_scale = float(spatial_scale)
        self.backend = backend

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        """(B, C, H, W) and (N, 5) -> (N, C, h, w)."""
        return prroi_pool(features, rois, self.output_size, self.spatial_scale, self.backend)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale:g}, "
            f"backend={self.backend!r}"
        )


def _pair(output_size: int | tuple[int, int]) -> tuple[int, int]:
    pair = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if len(pair) != 2 or any(int(v) != v or v < 1 for v in pair):
        raise ValueError(f"output_size must be a positive int or two of them, got {output_size!r}")
    return int(pair[0]), int(pair[1])


def _check(
    features: Tensor, rois: Tensor, output_size: int | tuple[int, int], scale: float
) -> tuple[int, int]:
    if features.dim() != 4:
        raise ValueError(f"features must have shape (B, C, H, W), got {tuple(features.shape)}")
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(
            f"rois must have shape (N, 5) = (batch_index, x1, y1, x2, y2), got {tuple(rois.shape)}"
        )
    for name, tensor in (("features", features), ("rois", rois)):
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating, got {tensor.dtype}; use {name}.float()")
    if features.device != rois.device:
        raise ValueError(f"features are on {features.device} but rois on {rois.device}")
    if not 0 < scale < float("inf"):
        raise ValueError(f"spatial_scale must be positive and finite (1 / stride), got {scale!r}")
    return _pair(output_size)


@torch.library.register_fake("ebm_ops::prroi_pool", lib=_LIBRARY)
def _(features, rois, pooled_height, pooled_width, spatial_scale):
    return features.new_empty(rois.shape[0], features.shape[1], pooled_height, pooled_width)


@torch.library.register_fake("ebm_ops::prroi_pool_grad_rois", lib=_LIBRARY)
def _(grad, features, rois, spatial_scale):
    return rois.new_empty(rois.shape)


@torch.library.register_fake("ebm_ops::prroi_pool_grad_features", lib=_LIBRARY)
def _(grad, rois, batch, height, width, spatial_scale):
    return torch.empty(
        (batch, grad.shape[1], height, width),
        dtype=grad.dtype,
        device=grad.device,
        memory_format=torch.channels_last,
    )


def _save_forward(ctx, inputs, output):
    features, rois, _, _, ctx.scale = inputs
    ctx.save_for_backward(features, rois)


def _backward_forward(ctx, grad):
    """Compute each gradient only if it is needed: refinement needs that of the boxes alone."""
    features, rois = ctx.saved_tensors
    by_features = by_rois = None
    if ctx.needs_input_grad[0]:
        batch, _, height, width = features.shape
        by_features = _OPS.prroi_pool_grad_features(grad, rois, batch, height, width, ctx.scale)
    if ctx.needs_input_grad[1]:
        by_rois = _OPS.prroi_pool_grad_rois(grad, features, rois, ctx.scale)
    return by_features, by_rois, None, None, None


def _save_grad_features(ctx, inputs, output):
    grad, rois, _, _, _, ctx.scale = inputs
    ctx.save_for_backward(grad, rois)


def _backward_grad_features(ctx, upstream):
    """`<u, dL/dF> = <dL/dP, pool(u)>`: the derivatives are those of pooling `u`."""
    grad, rois = ctx.saved_tensors
    by_grad = by_rois = None
    if ctx.needs_input_grad[0]:
        by_grad = _OPS.prroi_pool(upstream, rois, grad.shape[2], grad.shape[3], ctx.scale)
    if ctx.needs_input_grad[1]:
        by_rois = _OPS.prroi_pool_grad_rois(grad, upstream, rois, ctx.scale)
    return by_grad, by_rois, None, None, None, None


def _save_grad_rois(ctx, inputs, output):
    grad, features, rois, ctx.scale = inputs
    ctx.save_for_backward(grad, features, rois)


def _backward_grad_rois(ctx, upstream):
    """The reference computes the derivatives of the box gradient, to any order."""
    grad, features, rois = ctx.saved_tensors
    size, scale = tuple(grad.shape[2:]), ctx.scale
    of_grad, of_features, of_rois, _ = ctx.needs_input_grad
    by_grad, by_rois, by_features = double_backward(
        lambda rois, features: reference.forward_gathered(features, rois, size, scale),
        grad,
        rois,
        [features],
        upstream,
        [of_grad, of_rois, of_features],
    )
    return by_grad, by_features, by_rois, None


torch.library.register_autograd(
    "ebm_ops::prroi_pool", _backward_forward, setup_context=_save_forward, lib=_LIBRARY
)
torch.library.register_autograd(
    "ebm_ops::prroi_pool_grad_features",
    _backward_grad_features,
    setup_context=_save_grad_features,
    lib=_LIBRARY,
)
torch.library.register_autograd(
    "ebm_ops::prroi_pool_grad_rois",
    _backward_grad_rois,
    setup_context=_save_grad_rois,
    lib=_LIBRARY,
)


def _reference_kernels(device: str) -> dict:
    """The three operators on the reference, for a device without kernels of its own."""

    def forward(features, rois, pooled_height, pooled_width, scale):
        backends.warn_slow(device)
        return reference.forward(features, rois, (pooled_height, pooled_width), scale)

    return {
        "prroi_pool": forward,
        "prroi_pool_grad_rois": reference.grad_rois,
        "prroi_pool_grad_features": reference.grad_features,
    }


def _triton_kernels() -> dict:
    """The three operators in Triton, which is imported when the first of them is called."""
    late = functools.partial(backends.late, "ebm_ops.prroi_pool.triton")
    return {
        "prroi_pool": late("forward"),
        "prroi_pool_grad_rois": late("grad_rois"),
        "prroi_pool_grad_features": late("grad_features"),
    }


def _register() -> None:
    info = backends.backend_info()
    if info["cpu"].name == "reference":  # else loading the extension has registered its own
        for name, kernel in _reference_kernels("cpu").items():
            _LIBRARY.impl(name, kernel, "CPU")
    on_gpu = _triton_kernels() if info["cuda"].name == "triton" else _reference_kernels("cuda")
    for name, kernel in on_gpu.items():
        _LIBRARY.impl(name, kernel, "CUDA")


_register()
