"""Linear layers whose products have at least float32 precision."""

from __future__ import annotations

import functools
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from .host_reads import records_file
from .log_density import at_least_float32

__all__ = ["Float32Linear", "GradientPrecision", "check_gradient_precision", "multiplies_bf16"]

GradientPrecision = Literal["fp32", "bf16"]

_rounded_weights = WeakTensorKeyDictionary()


class Float32Linear(nn.Linear):
    """``nn.Linear`` that multiplies in float32 even if its weights have half precision.

    Under autocast it behaves like ``nn.Linear``; weights in float64 are multiplied in float64.

    With ``gradient_precision = 'bf16'`` the gradient to the input is a product of bfloat16 numbers,
    summed in float32, where the processor has such products (:func:`multiplies_bf16`); values stay
    as exact as without. Only in eval mode, where weights then have no gradient; a change through
    ``weight.data``, which torch does not count, is seen after the next ``train()`` or ``eval()``.
    """

    gradient_precision: GradientPrecision = "fp32"

    def train(self, mode: bool = True) -> Float32Linear:
        """As in torch. What is known of the weights is forgotten: hooks exchange them then."""
        _rounded_weights.pop(self.weight, None)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) of any precision -> (..., out_features), float32 or better."""
        dtype = at_least_float32(self.weight.dtype)
        x, weight = x.to(dtype), self.weight.to(dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        rounds = self.gradient_precision == "bf16" and not self.training and dtype == torch.float32
        rounds = rounds and x.requires_grad and not records_file()
        if not (rounds and multiplies_bf16(x.device.type)):
            return functional.linear(x, weight, bias)
        bias = None if bias is None else bias.detach()
        return _RoundedGradient.apply(x, weight.detach(), bias, _rounded(self.weight))


class _RoundedGradient(torch.autograd.Function):
    """x Wᵀ + b, whose gradient to x is g W with both factors rounded to bfloat16."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, rounded: Tensor
    ) -> Tensor:
        ctx.save_for_backward(rounded)
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (rounded,) = ctx.saved_tensors
        # Of differentiable operations, so that f can be differentiated twice.
        return (gradient.bfloat16() @ rounded).float(), None, None, None


def _rounded(weight: Tensor) -> Tensor:
    """A weight in bfloat16, made once for as long as it does not change."""
    if weight.dtype == torch.bfloat16:
        return weight.detach()
    if torch.compiler.is_compiling() or weight.is_inference():  # these do not count their changes
        return weight.detach().bfloat16()
    version, rounded = _rounded_weights.get(weight, (None, None))
    if version != (weight._version, weight.data_ptr()):
        with torch.inference_mode(False):  # autograd cannot keep tensors of inference mode
            rounded = weight.detach().bfloat16()
        _rounded_weights[weight] = (weight._version, weight.data_ptr()), rounded
    return rounded


def check_gradient_precision(precision: str) -> GradientPrecision:
    """Return the name of a precision.

    Raises:
        ValueError: it is unknown.
    """
    if precision not in get_args(GradientPrecision):
        raise ValueError(f"gradient_precision={precision!r} is unknown; use 'fp32' or 'bf16'")
    return precision


@functools.cache
def multiplies_bf16(device_type: str) -> bool:
    """Whether products of bfloat16 are faster here than those of float32.

    On CPUs: with AVX512-BF16 or AMX. Others emulate them, which takes longer.
    """
    if device_type != "cpu":
        return device_type == "cuda" and torch.cuda.is_bf16_supported()
    # Names of torch.cpu that are not public yet; without them the answer is no.
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)
