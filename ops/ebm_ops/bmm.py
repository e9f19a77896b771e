"""Matrix products in the precision of their factors: those of pooling in plain PyTorch.

Autocast would round the factors of a product to half precision, where values of a map are averaged
and small differences of them are the result. Switching it off around a function is not enough:
autograd computes the products of the derivatives later, under the autocast of that moment. So each
product is a function whose derivatives, of any order, are such products again.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bmm"]


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """`torch.bmm(a, b)`, and its derivatives of any order, with autocast off.

    Args:
        a: (n, p, k), floating.
        b: (n, k, q), of the same dtype and device.

    Returns:
        Tensor: (n, p, q) in the dtype of the factors.
    """
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        return _Product.apply(a, b)
    return _product(a, b)  # ten times faster to call


def _product(a: Tensor, b: Tensor) -> Tensor:
    with torch.autocast(a.device.type, enabled=False):
        return torch.bmm(a, b)


class _Product(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return _product(a, b)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        of_a, of_b = ctx.needs_input_grad
        return bmm(grad, b.mT) if of_a else None, bmm(a.mT, grad) if of_b else None
