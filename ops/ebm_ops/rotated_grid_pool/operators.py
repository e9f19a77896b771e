"""The torch operators of pooling on rotated grids: schemas, derivatives and implementations.

They are `torch.ops.ebm_ops.rotated_grid_pool` and its two gradients, so that `torch.compile` and
export treat each as one node. Each takes an optional tangent (N, 5); with it, the operator returns
its derivative along that direction of the boxes. So the derivative of each operator is another of
the three. The backend's own kernels compute first and second derivatives in closed form, each only
if it is needed; the reference computes the higher ones.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from ebm_ops import backends
from ebm_ops.double_backward import double_backward
from ebm_ops.rotated_grid_pool import reference
from ebm_ops.rotated_grid_pool.reference import Grid

_LIBRARY = torch.library.Library("ebm_ops", "FRAGMENT")
_WHERE = "int samples_per_bin, float x0, float y0, float cell_size, float pixel_offset"
_LIBRARY.define(
    "rotated_grid_pool(Tensor bev, Tensor boxes, Tensor batch_index, Tensor? tangent, SymInt rows, "
    f"SymInt columns, {_WHERE}) -> Tensor"
)
_LIBRARY.define(
    "rotated_grid_pool_grad_boxes(Tensor grad, Tensor bev, Tensor boxes, Tensor batch_index, "
    f"Tensor? tangent, {_WHERE}) -> Tensor"
)
_LIBRARY.define(
    "rotated_grid_pool_grad_bev(Tensor grad, Tensor boxes, Tensor batch_index, Tensor? tangent, "
    f"SymInt batch, SymInt height, SymInt width, {_WHERE}) -> Tensor"
)
OPS = torch.ops.ebm_ops


@torch.library.register_fake("ebm_ops::rotated_grid_pool", lib=_LIBRARY)
def _(bev, boxes, batch_index, tangent, rows, columns, *where):
    return bev.new_empty(boxes.shape[0], bev.shape[1], rows, columns)


@torch.library.register_fake("ebm_ops::rotated_grid_pool_grad_boxes", lib=_LIBRARY)
def _(grad, bev, boxes, batch_index, tangent, *where):
    return boxes.new_empty(boxes.shape)


@torch.library.register_fake("ebm_ops::rotated_grid_pool_grad_bev", lib=_LIBRARY)
def _(grad, boxes, batch_index, tangent, batch, height, width, *where):
    return torch.empty(
        (batch, grad.shape[1], height, width),
        dtype=grad.dtype,
        device=grad.device,
        memory_format=torch.channels_last,
    )


def _save_forward(ctx, inputs, output):
    bev, boxes, index, tangent, _, _, *ctx.where = inputs
    ctx.save_for_backward(bev, boxes, index, tangent)


def _backward_forward(ctx, grad):
    """Compute each gradient only if it is needed: refinement needs that of the boxes alone."""
    bev, boxes, index, tangent = ctx.saved_tensors
    by_bev = by_boxes = by_tangent = None
    if ctx.needs_input_grad[0]:
        size = bev.shape[0], *bev.shape[2:]
        by_bev = OPS.rotated_grid_pool_grad_bev(grad, boxes, index, tangent, *size, *ctx.where)
    if ctx.needs_input_grad[1]:
        by_boxes = OPS.rotated_grid_pool_grad_boxes(grad, bev, boxes, index, tangent, *ctx.where)
    if ctx.needs_input_grad[3]:  # linear in the tangent
        by_tangent = OPS.rotated_grid_pool_grad_boxes(grad, bev, boxes, index, None, *ctx.where)
    return by_bev, by_boxes, None, by_tangent, *[None] * (2 + len(ctx.where))


def _save_grad_bev(ctx, inputs, output):
    grad, boxes, index, tangent, _, _, _, *ctx.where = inputs
    ctx.save_for_backward(grad, boxes, index, tangent)


def _backward_grad_bev(ctx, upstream):
    """`<u, dL/dF> = <dL/dP, pool(u)>`: the derivatives are those of pooling `u`."""
    grad, boxes, index, tangent = ctx.saved_tensors
    by_grad = by_boxes = by_tangent = None
    if ctx.needs_input_grad[0]:
        by_grad = OPS.rotated_grid_pool(
            upstream, boxes, index, tangent, *grad.shape[2:], *ctx.where
        )
    if ctx.needs_input_grad[1]:
        by_boxes = OPS.rotated_grid_pool_grad_boxes(
            grad, upstream, boxes, index, tangent, *ctx.where
        )
    if ctx.needs_input_grad[3]:
        by_tangent = OPS.rotated_grid_pool_grad_boxes(
            grad, upstream, boxes, index, None, *ctx.where
        )
    return by_grad, by_boxes, None, by_tangent, *[None] * (3 + len(ctx.where))


def _save_grad_boxes(ctx, inputs, output):
    grad, bev, boxes, index, tangent, *ctx.where = inputs
    ctx.save_for_backward(grad, bev, boxes, index, tangent)


def _backward_grad_boxes(ctx, upstream):
    """`<u, dL/dy> = <dL/dP, pool(F, y; u)>`: the derivatives are those along the tangent `u`."""
    grad, bev, boxes, index, tangent = ctx.saved_tensors
    rest = [None] * len(ctx.where)
    if tangent is not None:
        *found, by_tangent = _third_derivatives(ctx, upstream)
        return *found, None, by_tangent, *rest
    by_grad = by_bev = by_boxes = None
    if ctx.needs_input_grad[0]:
        by_grad = OPS.rotated_grid_pool(bev, boxes, index, upstream, *grad.shape[2:], *ctx.where)
    if ctx.needs_input_grad[1]:
        size = bev.shape[0], *bev.shape[2:]
        by_bev = OPS.rotated_grid_pool_grad_bev(grad, boxes, index, upstream, *size, *ctx.where)
    if ctx.needs_input_grad[2]:
        by_boxes = OPS.rotated_grid_pool_grad_boxes(grad, bev, boxes, index, upstream, *ctx.where)
    return by_grad, by_bev, by_boxes, None, None, *rest


def _third_derivatives(ctx, upstream):
    """By grad, bev, boxes and tangent, to any order: the reference computes them."""
    grad, bev, boxes, index, tangent = ctx.saved_tensors
    grid = Grid(*grad.shape[2:], *ctx.where)
    by_grad, by_boxes, by_bev, by_tangent = double_backward(
        lambda boxes, bev, tangent: reference.forward(bev, boxes, index, tangent, grid),
        grad,
        boxes,
        [bev, tangent],
        upstream,
        [ctx.needs_input_grad[k] for k in (0, 2, 1, 4)],
    )
    return by_grad, by_bev, by_boxes, by_tangent


for _name, _backward, _save in (
    ("rotated_grid_pool", _backward_forward, _save_forward),
    ("rotated_grid_pool_grad_bev", _backward_grad_bev, _save_grad_bev),
    ("rotated_grid_pool_grad_boxes", _backward_grad_boxes, _save_grad_boxes),
):
    torch.library.register_autograd(
        f"ebm_ops::{_name}", _backward, setup_context=_save, lib=_LIBRARY
    )


def _kernels(load: Callable[[], ModuleType]) -> dict[str, Callable[..., Tensor]]:
    """The three operators, computed by the module that `load` imports at the first call."""

    def forward(bev, boxes, index, tangent, *grid):
        return load().forward(bev, boxes, index, tangent, Grid(*grid))

    def grad_boxes(grad, bev, boxes, index, tangent, *where):
        grid = Grid(*grad.shape[2:], *where)
        return load().grad_boxes(grad, bev, boxes, index, tangent, grid)

    def grad_bev(grad, boxes, index, tangent, batch, height, width, *where):
        grid = Grid(*grad.shape[2:], *where)
        return load().grad_bev(grad, boxes, index, tangent, (batch, height, width), grid)

    return {
        "rotated_grid_pool": forward,
        "rotated_grid_pool_grad_boxes": grad_boxes,
        "rotated_grid_pool_grad_bev": grad_bev,
    }


def _reference(device: str, why: str | None = None) -> Callable[[], ModuleType]:
    """Load the reference, for a device without kernels of its own, after a warning."""

    def load():
        backends.warn_slow(device, why)
        return reference

    return load


def _triton() -> ModuleType:
    from ebm_ops.rotated_grid_pool import triton

    return triton


def _register() -> None:
    info = backends.backend_info()
    on_cpu = None  # the extension registers its own when it is loaded
    if info["cpu"].name == "reference":
        on_cpu = _reference("cpu")
    elif backends.extension_lacks("rotated_grid_pool"):
        on_cpu = _reference("cpu", "the C++ extension is older than rotated_grid_pool; reinstall")
    on_gpu = _triton if info["cuda"].name == "triton" else _reference("cuda")
    for load, key in ((on_cpu, "CPU"), (on_gpu, "CUDA")):
        for name, kernel in (_kernels(load) if load else {}).items():
            _LIBRARY.impl(name, kernel, key)


_register()
