"""The energy network with ReLU as one operation, whose activations stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = ["blocks", "fused_energy"]


def blocks(n: int, s: int, rows: int) -> Iterator[tuple[slice, slice]]:
    """Cut (n, s) points into blocks of at most ``rows``: some images, or points of one image."""
    images, points = max(1, rows // max(s, 1)), max(1, min(s, rows))
    for i in range(0, n, images):
        for j in range(0, s, points):
            yield slice(i, min(i + images, n)), slice(j, min(j + points, s))


class _FusedEnergy(torch.autograd.Function):
    """f = w · relu(W_y φ(x) + c) + b, with gradients in everything but x.

    Autograd writes every activation and every gradient of one to new memory, which takes about as
    long as the products. Here points are taken in blocks, forwards and backwards, and of the
    largest activation only its signs are kept. With G = g · [a > 0] (gradient g of f, (R,)),

        dW_y = w ⊙ (Gᵀ φ),   dφ = G (w ⊙ W_y),   dc = w ⊙ Σ_s G,   dw = Σ W_y ⊙ (Gᵀ φ) + Σ c ⊙ Σ_s G
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: int,
        x: Tensor,
        c: Tensor,
        w: Tensor,
        b: Tensor,
        w_y: Tensor,
        *layers: Tensor,
    ) -> Tensor:
        n, s, _ = x.shape
        f = x.new_empty(n, s)
        saved: list[Tensor] = []
        for part in blocks(n, s, rows):
            activations = [x[part].flatten(0, 1)]
            for weight, bias in zip(layers[::2], layers[1::2]):
                activations.append(functional.linear(activations[-1], weight, bias).relu_())
            a = torch.mm(activations[-1], w_y.T)
            shape = part[0].stop - part[0].start, part[1].stop - part[1].start
            a = a.view(*shape, len(w)).add_(c[part[0], None])
            saved += [*activations, a > 0]
            f[part] = torch.mv(a.relu_().flatten(0, 1), w).add_(b).view(shape)
        ctx.save_for_backward(c, w, w_y, *layers, *saved)
        ctx.rows, ctx.shape, ctx.num_layers = rows, (n, s), len(layers)
        return f

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        c, w, w_y, *rest = ctx.saved_tensors
        layers, saved = rest[: ctx.num_layers], rest[ctx.num_layers :]
        per_block = ctx.num_layers // 2 + 2
        scaled, products = w[:, None] * w_y, torch.zeros_like(w_y)
        sums = torch.zeros_like(c)
        grads = [torch.zeros_like(layer) for layer in layers]
        for index, part in enumerate(blocks(*ctx.shape, ctx.rows)):
            *activations, positive = saved[index * per_block : (index + 1) * per_block]
            g = positive * grad[part].unsqueeze(-1)
            sums[part[0]] += g.sum(1)
            g = g.flatten(0, 1)
            products.addmm_(g.T, activations[-1])
            upper = torch.mm(g, scaled)
            for k in range(ctx.num_layers // 2 - 1, -1, -1):
                upper.mul_(activations[k + 1] > 0)
                grads[2 * k].addmm_(upper.T, activations[k])
                grads[2 * k + 1] += upper.sum(0)
                if k:
                    upper = torch.mm(upper, layers[2 * k])
        grad_w = (w_y * products).sum(1) + (c * sums).sum(0)
        return None, None, w * sums, grad_w, grad.sum(), w[:, None] * products, *grads


def fused_energy(
    rows: int, x: Tensor, c: Tensor, w: Tensor, b: Tensor, w_y: Tensor, *layers: Tensor
) -> Tensor:
    """Evaluate f (N, S) at embedded points; once differentiable in everything but x.

    Args:
        rows: points in one block.
        x: (N, S, D') embedded points, constant.
        c: (N, H) part of the image.
        w: (H,) weights of the output.
        b: () its bias.
        w_y: (H, Y) columns of the fusion layer that read φ.
        *layers: weights (o, i) and biases (o,) of the layers of φ, in turns.
    """
    f: Tensor = _FusedEnergy.apply(rows, x, c, w, b, w_y, *layers)
    return f
