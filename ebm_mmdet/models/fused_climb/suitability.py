"""Which climbs can be run as one CUDA graph, and why the others cannot."""

from __future__ import annotations

import functools
import importlib.util
import inspect

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ebm_ops import backend_info

from ...energy import LogDensityFn
from ...energy.float32_linear import Float32Linear
from ...energy.host_reads import records_graph
from ...energy.priors import LogPosterior
from ..heads import BoxLogDensity, EBMBBoxHead, EnergyHead
from .products import Precision

__all__ = [
    "MOST_BOXES",
    "say_not_fused_once",
    "say_once",
    "split_prior",
    "why_not_fused",
    "why_not_here",
    "why_not_recorded",
]

MOST_BOXES = 512
"""With more, the loop is bound by the GPU, and by leaving out boxes that no longer move."""

_METHODS = ("assign_levels", "decode", "embed", "evaluate", "of_class", "outputs", "pool")


def split_prior(log_density_fn: LogDensityFn) -> tuple[LogDensityFn, LogPosterior | None]:
    """A log-density without its prior, and the whole, if it has one."""
    if isinstance(log_density_fn, LogPosterior):
        return log_density_fn.likelihood, log_density_fn
    return log_density_fn, None


def why_not_here(device: torch.device, precision: Precision) -> str | None:
    """Why no climb on this device can be a CUDA graph, or None."""
    if device.type != "cuda":
        return f"the boxes are on {device.type}, and CUDA graphs are for GPUs"
    if importlib.util.find_spec("triton") is None or backend_info()["cuda"].name != "triton":
        return f"its kernels need Triton, and {backend_info()['cuda'].why}"
    if precision == "bf16x2" and not hasattr(torch.ops.aten.mm, "dtype_out"):
        return f"torch {torch.__version__} has no torch.mm with out_dtype, for precision='bf16x2'"
    if records_graph() or torch.cuda.is_current_stream_capturing():
        return "the caller is making a graph, which the steps of the loop become a part of"
    return None


def why_not_recorded(log_density_fn: LogDensityFn, y0: Tensor) -> str | None:
    """Why no climb of this function from y0 (N, D) or (N, S, D) can be a CUDA graph, or None.

    A graph repeats the launches of one climb on other numbers. So nothing but numbers may differ
    from climb to climb, and maps have to be readable with zeros around.
    """
    fn, _ = split_prior(log_density_fn)
    if not isinstance(fn, BoxLogDensity) or type(fn).__call__ is not BoxLogDensity.__call__:
        return f"f is a {type(fn).__name__}, not that of an energy head alone"
    if y0.numel() // y0.shape[-1] > MOST_BOXES:
        return f"there are more than {MOST_BOXES} starting points at a time"
    if y0.dtype != torch.float32 or any(feat.dtype != torch.float32 for feat in fn.feats):
        return "it climbs in another precision than float32"
    if any(feat.requires_grad for feat in fn.feats):
        return "the maps require gradients"
    if any(x.device != y0.device for x in (*fn.feats, fn.reference, *fn.head.parameters())):
        return "head, maps and boxes are not on one device"
    head = fn.head
    if not isinstance(head, EnergyHead):
        return f"f is that of a {type(head).__name__}, not of an energy head alone"
    pool = inspect.getattr_static(head, "pool")
    if pool is not EBMBBoxHead.pool and not getattr(pool, "reads_zeros_outside", False):
        return (
            f"{type(head).__name__} has a pool of its own, which does not say what it reads outside"
        )
    if any(part.training for part in head.modules()):
        return "the head is in train mode"
    if any(_is_hooked(part) for part in head.modules()):
        return "the head has hooks"
    if any(weight.dtype == torch.float64 for weight in head.parameters()):
        return "the head is in float64"
    # Rounded weights are kept elsewhere, and made anew when the weights change.
    kinds = {getattr(part, "gradient_precision", "fp32") for part in head.modules()} - {"fp32"}
    if kinds:
        return f"gradient_precision={kinds.pop()!r} is for the loop; see precision"
    return None


def why_not_fused(log_density_fn: LogDensityFn) -> str | None:
    """Why the fused kernels cannot climb a function that can be recorded, or None.

    What is asked is whether it is, to the last layer, the one that the kernels compute.
    """
    fn, posterior = split_prior(log_density_fn)
    head = fn.head
    if not isinstance(head, EBMBBoxHead):
        return f"the head is of type {type(head).__name__}"
    if posterior is not None and posterior.std.dim() == 3:
        return "the prior has a covariance for each box"
    for name in _METHODS:
        own = inspect.getattr_static(head, name)
        if own is not inspect.getattr_static(EBMBBoxHead, name):
            return f"{type(head).__name__} has a {name} of its own"
    if head.level_rule != "assign" and len(head.strides) > 1:
        return "the head has level_rule='concat' with several levels"
    layers = [*head.trunk, head.fc_energy]
    if len(layers) != 3 or not isinstance(head.activation, nn.ReLU):
        return "the trunk is not linear, ReLU, linear, ReLU, linear"
    if any(type(layer) is not Float32Linear or layer.bias is None for layer in layers):
        return "a layer of the trunk is no plain Float32Linear with bias"
    return None


def _is_hooked(part: nn.Module) -> bool:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(part, name) for name in hooks) or "forward" in vars(part)


@functools.cache
def say_once(reason: str) -> None:
    """Log why the loop is used instead of a CUDA graph: each reason once per process."""
    print_log(
        f"cuda_graph=True: refinement uses the loop of gradient_ascent instead, because {reason}.",
        logger="current",
        level=30,  # logging.WARNING
    )


@functools.cache
def say_not_fused_once(reason: str) -> None:
    """Log why a CUDA graph has the operations of the loop: each reason once per process."""
    print_log(
        "cuda_graph=True: the graph has the operations of gradient_ascent, not the fused kernels, "
        f"because {reason}.",
        logger="current",
        level=20,  # logging.INFO
    )
