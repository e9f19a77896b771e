"""The y part of the 1D network as one compiled pass, over three times faster than layer by layer.

``kernel.cpp`` is compiled when it is first needed, for the processor of this machine, which takes
some seconds. Without a C++ compiler the plain PyTorch definition in :mod:`.network` does the same
work.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["fused_log_density", "kernel_is_available"]

_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC", "-w")
_LOCK = threading.Lock()


def kernel_is_available() -> bool:
    """Whether the kernel could be compiled; the first call compiles it."""
    with _LOCK:
        return _kernel() is not None


def fused_log_density(y: Tensor, weights: Tensor, c: Tensor) -> Tensor:
    """Evaluate the y part of the network, f (E, B, S); differentiable once in every argument.

    Args:
        y: (E, B, S) float32, S points for each of B targets of each of E models.
        weights: (E, 351) float32, the flattened weights in the order of ``kernel.cpp``.
        c: (E, B, 10) float32, contribution of x and the bias to the first joint layer.

    Raises:
        RuntimeError: the kernel is not available.
        ValueError: shapes, dtypes or devices are not those above.
    """
    return _FusedLogDensity.apply(y, weights, c)


class _FusedLogDensity(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor, weights: Tensor, c: Tensor) -> Tensor:
        kernel = _kernel()
        if kernel is None:
            raise RuntimeError("the 1D kernel is not available; use the PyTorch definition.")
        y, weights, c = (tensor.contiguous() for tensor in (y, weights, c))
        _check(y, weights, c, kernel.energy1d_num_weights())
        ctx.save_for_backward(y, weights, c)
        f = torch.empty_like(y)
        kernel.energy1d_forward(*map(_pointer, (f, y, weights, c)), *_sizes(y))
        return f

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        y, weights, c = ctx.saved_tensors
        grad_y = grad_weights = grad_c = None
        if ctx.needs_input_grad[0]:
            grad_y = torch.empty_like(y)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            grad_weights, grad_c = torch.empty_like(weights), torch.empty_like(c)
        arguments = (grad_weights, grad_c, grad_y, grad.contiguous(), y, weights, c)
        _kernel().energy1d_backward(*map(_pointer, arguments), *_sizes(y))
        return grad_y, grad_weights, grad_c


def _check(y: Tensor, weights: Tensor, c: Tensor, num_weights: int) -> None:
    models, targets = y.shape[:2] if y.dim() == 3 else (-1, -1)
    expected = ((models, num_weights), (models, targets, 10))
    if (weights.shape, c.shape) != expected:
        raise ValueError(
            f"y {tuple(y.shape)}, weights {tuple(weights.shape)}, c {tuple(c.shape)}; expected "
            f"(E, B, S), (E, {num_weights}), (E, B, 10)."
        )
    for tensor in (y, weights, c):
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            raise ValueError(
                f"the kernel computes in float32 on the CPU, got {tensor.dtype} on "
                f"{tensor.device}; use the PyTorch definition."
            )


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _sizes(y: Tensor) -> list[ctypes.c_int64]:
    return [ctypes.c_int64(size) for size in y.shape]


@functools.cache
def _kernel() -> ctypes.CDLL | None:
    """The compiled kernel, or None. While it computes, ctypes lets other threads run."""
    names = (os.environ.get("CXX", "").partition(" ")[0], "c++", "g++", "clang++")
    compiler = next((path for name in names if name and (path := shutil.which(name))), None)
    if compiler is None or platform.system() == "Windows":
        warnings.warn("no C++ compiler: the 1D study will be several times slower", stacklevel=3)
        return None
    source = Path(__file__).with_name("kernel.cpp")
    # Compiled again in every process, because a cached file may be for another processor.
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "energy1d.so")
        command = [compiler, *_FLAGS, "-march=native", str(source), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            warnings.warn(
                "the 1D kernel does not compile, the 1D study will be several times slower: "
                f"{done.stderr.strip()[:200]}",
                stacklevel=3,
            )
            return None
        return ctypes.CDLL(str(library))
