"""Products with the trunk's weights on a GPU, in three precisions; sums are float32 in each.

    fp32      IEEE float32, as the loop has them
    tf32      both factors rounded to 10 bits by the GPU; float32 in memory
    bf16x2    weights and maps rounded to bfloat16 (8 bits); activations as x = high + rest, two
              bfloat16 numbers, one behind the other as rows of one product

A climb compares values of f that differ by little, so what counts is that rounding is the same
wherever the box is: with ``bf16x2``, f is that of a slightly other head, but its differences are
nearly as exact as in float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["Precision", "check_precision", "multiply", "products_in", "round_to_tf32"]

Precision = Literal["fp32", "tf32", "bf16x2"]


def check_precision(precision: str) -> Precision:
    """Return the name of a precision.

    Raises:
        ValueError: it is unknown.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision={precision!r} is unknown; use 'fp32', 'tf32' or 'bf16x2'")
    return precision


def multiply(x: Tensor, weight: Tensor, out: Tensor, precision: Precision) -> None:
    """Write x (R, K) times weight (K, M) into out (R, M) float32.

    Factors are float32, and bfloat16 with ``bf16x2``. A GPU rounds them to TF32 by itself, inside
    :func:`products_in`; elsewhere, where it is only emulated, they are rounded here.
    """
    if precision == "bf16x2" and x.is_cuda:
        torch.mm(x, weight, out_dtype=torch.float32, out=out)
    elif precision == "bf16x2":
        torch.mm(x.float(), weight.float(), out=out)
    elif precision == "tf32" and not x.is_cuda:
        torch.mm(round_to_tf32(x), round_to_tf32(weight), out=out)
    else:
        torch.mm(x, weight, out=out)


def round_to_tf32(x: Tensor) -> Tensor:
    """Float32 numbers rounded to the 10 bits of TF32, ties away from zero, as GPUs do."""
    bits = (x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF
    return torch.where(x.isfinite(), bits.view(torch.float32), x)


@contextlib.contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Let products of float32 on the GPU be in TF32, or IEEE, whatever the process has chosen.

    The choice is the process's: other threads have it too as long as this lasts, which is while a
    graph is recorded. A recorded product keeps the choice with which it was recorded.
    """
    matmul, wanted = torch.backends.cuda.matmul, precision == "tf32"
    if hasattr(matmul, "fp32_precision"):  # torch 2.9; the older name then warns, or refuses
        name, value = "fp32_precision", "tf32" if wanted else "ieee"
    else:
        name, value = "allow_tf32", wanted
    before = getattr(matmul, name)
    setattr(matmul, name, value)
    try:
        yield
    finally:
        setattr(matmul, name, before)
