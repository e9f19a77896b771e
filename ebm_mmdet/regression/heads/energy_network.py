"""The network f(h, z) of image features and labels, with the features' part computed once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional

from ...energy.float32_linear import Float32Linear
from .fused_energy import blocks, fused_energy

__all__ = ["EnergyNetwork"]


class EnergyNetwork(nn.Module):
    r"""f = w · a(W [h, φ(z)] + b) + c, with W split into its columns W_h and W_y.

        W [h, φ(z)] + b = (W_h h + b) + W_y φ(z)

    The first term is computed once per image, the second one for every point: with h of 512 and φ
    of 128 numbers, a point costs 4.4 times less than with the concatenation. φ has one linear layer
    and activation for each of ``y_dims``. There is no normalisation and no dropout.

    Everything is computed in float32, also under autocast and with weights in half precision.

    Source: Gustafsson et al., AISTATS 2022 (arXiv:2110.11948), networks as released.

    Args:
        in_channels: width of h.
        in_dim: width of what φ reads, ``TargetCodec.embedded_dim``.
        y_dims: widths of the layers of φ.
        hidden: width of the fusion layer.
        act_cfg: activation a, ReLU by default, which makes f piecewise linear in z. Score matching
            needs a smooth one, ``dict(type='SiLU')``.
    """

    def __init__(
        self,
        in_channels: int,
        in_dim: int,
        y_dims: Sequence[int] = (16, 32, 64, 128),
        hidden: int = 512,
        act_cfg: dict | None = None,
    ) -> None:
        super().__init__()
        if not y_dims or min(*y_dims, hidden, in_channels, in_dim) < 1:
            raise ValueError(
                f"in_channels={in_channels}, y_dims={tuple(y_dims)} and hidden={hidden} must be 1 "
                "or more, and y_dims not empty."
            )
        self.in_channels = in_channels
        self.activation = MODELS.build(act_cfg or dict(type="ReLU", inplace=True))
        widths = [in_dim, *y_dims]
        self.y_layers = nn.ModuleList(Float32Linear(i, o) for i, o in itertools.pairwise(widths))
        self.fusion = Float32Linear(in_channels + widths[-1], hidden)
        self.out = Float32Linear(hidden, 1)

    def image_part(self, h: Tensor) -> Tensor:
        """W_h h + b (N, hidden) of features h (N, C), float32 or better."""
        weight, bias = self.fusion.weight, self.fusion.bias
        dtype = torch.promote_types(weight.dtype, torch.float32)
        weight = weight[:, : self.in_channels].to(dtype)
        return functional.linear(h.to(dtype), weight, bias.to(dtype))

    def phi(self, x: Tensor) -> Tensor:
        """Features (R, y_dims[-1]) of R embedded points (R, in_dim)."""
        for layer in self.y_layers:
            x = self.activation(layer(x))
        return x

    def forward(self, image_part: Tensor, x: Tensor) -> Tensor:
        """Evaluate f (N, S) at embedded points x (N, S, in_dim), with :meth:`image_part`.

        If x requires a gradient, f is differentiable any number of times. Otherwise it is
        differentiable in the parameters, once where the activation is ReLU. Where nothing is
        differentiated, points are evaluated in blocks, and any number of them needs little memory.
        """
        x = x.to(image_part.dtype)
        if not torch.is_grad_enabled():
            f = x.new_empty(x.shape[:2])
            for part in blocks(*f.shape, self._rows_per_block(x)):
                f[part] = self.plain(image_part[part[0]], x[part])
            return f
        if x.requires_grad or type(self.activation) is not nn.ReLU:
            return self.plain(image_part, x)
        weights = [p.to(x.dtype) for layer in self.y_layers for p in (layer.weight, layer.bias)]
        w_y = self.fusion.weight[:, self.in_channels :].to(x.dtype)
        w, b = self.out.weight[0].to(x.dtype), self.out.bias[0].to(x.dtype)
        return fused_energy(self._rows_per_block(x), x, image_part, w, b, w_y, *weights)

    def plain(self, image_part: Tensor, x: Tensor) -> Tensor:
        """The same by autograd, differentiable any number of times."""
        n, s, _ = x.shape
        weight = self.fusion.weight[:, self.in_channels :].to(image_part.dtype)
        a = functional.linear(self.phi(x.flatten(0, 1)), weight)
        a = a.view(n, s, self.fusion.out_features)
        return self.out(self.activation(a + image_part.unsqueeze(1))).squeeze(2)

    def concatenated(self, h: Tensor, x: Tensor) -> Tensor:
        """The same function without the split, its definition: h (N, C), x (N, S, in_dim)."""
        n, s, _ = x.shape
        phi = self.phi(x.flatten(0, 1)).unflatten(0, (n, s))
        joint = torch.cat([h.to(phi).unsqueeze(1).expand(-1, s, -1), phi], dim=2)
        return self.out(self.activation(self.fusion(joint))).squeeze(2)

    def _rows_per_block(self, x: Tensor) -> int:
        """Points whose widest activation takes 4 MiB, which a cache holds; on a GPU 256 MiB."""
        return max(1, (2**26 if x.is_cuda else 2**20) // self.fusion.out_features)
