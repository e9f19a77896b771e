"""Replaces functions of mmcv and spconv that fail, or are wrong, on a machine without CUDA.

    spconv 2     backward pass       gets the current CUDA stream before its CPU branch
                 scatter_add_cpu     wrong sums with more than one OpenMP thread (spconv issue 679):
                                     its threads share the two pointers of the inner loop
    mmcv         three_nn            no CPU kernel (auxiliary network of SASSD, PointNet++)
                 three_interpolate   no CPU kernel
                 sigmoid_focal_loss  no CPU kernel (auxiliary loss of SASSD)
                 points_in_boxes_all, points_in_boxes_part
                                     get the CUDA device first; the CPU kernel exists

Functions are replaced in every module of OpenMMLab's packages that has already imported them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib.util import find_spec

import torch

from . import cpu_ops

__all__ = ["patch_mmcv", "patch_spconv"]


def patch_spconv() -> list[str]:
    """Let spconv 2 train on a CPU, with correct sums.

    The sums are those of tensors on the CPU, which a machine with CUDA may have too.

    Returns:
        Names of the functions that this call replaced: none without spconv 2, and from the second
        call on.
    """
    try:
        ops = importlib.import_module("spconv.pytorch.ops")
    except ImportError:
        return []
    replaced = []
    if not torch.cuda.is_available() and ops.get_current_stream is not _no_stream:
        ops.get_current_stream = _no_stream
        replaced.append("spconv.pytorch.ops.get_current_stream")
    if ops.SpconvOps.scatter_add_cpu is not _scatter_add:

        class SpconvOps(ops.SpconvOps):
            scatter_add_cpu = staticmethod(_scatter_add)

        ops.SpconvOps = SpconvOps
        replaced.append("spconv.pytorch.ops.SpconvOps.scatter_add_cpu")
    return replaced


def _no_stream() -> int:
    """The null stream, which CPU code receives and ignores."""
    return 0


def _scatter_add(out, rows, indices) -> None:
    """``out[indices] += rows`` in place, for arrays of spconv; further ``rows`` are unused."""
    sums, rows, indices = (torch.from_numpy(x.numpy_view()) for x in (out, rows, indices))
    sums.index_add_(0, indices, rows[: len(indices)])


def patch_mmcv() -> list[str]:
    """Replace mmcv's functions by those of :mod:`.cpu_ops`.

    Returns:
        Names of the functions that this call replaced: none with CUDA, without mmcv, and from the
        second call on.
    """
    if torch.cuda.is_available() or not find_spec("mmcv"):
        return []
    mmcv_ops = importlib.import_module("mmcv.ops")
    replaced = []
    for name in cpu_ops.__all__:
        ours, original = getattr(cpu_ops, name), getattr(mmcv_ops, name)
        if original is not ours:
            _rebind(original, ours)
            replaced.append(f"mmcv.ops.{name}")
    return replaced


def _rebind(original: Callable, replacement: Callable) -> None:
    """Replace ``original`` in every loaded module of mmcv, mmdet and mmdet3d, under any name."""
    for module_name, module in list(sys.modules.items()):
        if module_name.split(".")[0] in ("mmcv", "mmdet", "mmdet3d"):
            for name, value in list(vars(module).items()):
                if value is original:
                    setattr(module, name, replacement)
