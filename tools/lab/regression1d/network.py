"""The networks of the 1D study, many independent models at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ebm_mmdet.energy.contracts import LogDensityFn

from .fused import fused_log_density, kernel_is_available
from .seeds import generator

__all__ = ["HIDDEN", "EnergyEnsemble", "Ensemble"]

HIDDEN = 10
_LAYERS = {
    "x1": (1, HIDDEN),
    "x2": (HIDDEN, HIDDEN),
    "y1": (1, HIDDEN),
    "joint": (2 * HIDDEN, HIDDEN),
    "residual1": (HIDDEN, HIDDEN),
    "residual2": (HIDDEN, HIDDEN),
    "out": (HIDDEN, 1),
}


class Ensemble(nn.Module):
    """E independent conditional densities of one kind, evaluated together.

    Parameters ``<layer>_weight`` (E, outputs, inputs) and ``<layer>_bias`` (E, outputs) begin with
    the index of the model, and model e depends only on its own slices: a sum of per-model losses
    trains every model as if it were alone, even if another one has become NaN.

    Initialised like ``nn.Linear``, U(±1/√inputs) for weights and biases, with a separate random
    stream for every model.

    Args:
        models: indices of the models; index, ``seed`` and ``stream`` fix the initial weights.
        seed: seed of the run.
        layers: (inputs, outputs) of each layer, by name.
        stream: name of the random streams, different for ensembles that are trained together.
    """

    def __init__(
        self,
        models: Sequence[int],
        seed: int,
        layers: dict[str, tuple[int, int]],
        stream: str = "init",
    ) -> None:
        super().__init__()
        self.num_models = len(models)
        streams = [generator(seed, stream, model) for model in models]
        for name, (inputs, outputs) in layers.items():
            bound = 1 / math.sqrt(inputs)
            for kind, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
                draws = [torch.rand(shape, generator=g) * 2 * bound - bound for g in streams]
                self.register_parameter(f"{name}_{kind}", nn.Parameter(torch.stack(draws)))

    def log_density_fn(self, x: Tensor, twice_differentiable: bool = False) -> LogDensityFn:
        """Bind f to x (E, B): a function from y (E·B, S, 1), ordered by model, to f (E·B, S).

        Args:
            x: (E, B), B inputs for each model.
            twice_differentiable: use the slower plain definition even if a fused one is available;
                score matching needs it.
        """
        raise NotImplementedError

    def linear(self, name: str, h: Tensor) -> Tensor:
        """Layer ``name`` of every model: (E, B, inputs) -> (E, B, outputs)."""
        weight, bias = getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")
        return torch.baddbmm(bias.unsqueeze(1), h, weight.mT)


class EnergyEnsemble(Ensemble):
    """E energy networks f_e(x, y) of 591 weights each.

        h_x = relu(X2 relu(X1 x)),   h_y = tanh(Y1 y)
        a = tanh(J [h_x, h_y]),   twice: a ← a + tanh(R a),   f = O a      (all layers with bias)

    J is split into its x and its y part, so that the cost of x does not depend on the number of y.

    Source: Gustafsson et al., BMVC 2020 (arXiv:2005.01698), network of the 1D experiments.

    Args:
        models: indices of the models.
        seed: seed of the run.
    """

    def __init__(self, models: Sequence[int], seed: int = 0) -> None:
        super().__init__(models, seed, _LAYERS)

    def log_density_fn(self, x: Tensor, twice_differentiable: bool = False) -> LogDensityFn:
        """See :meth:`Ensemble.log_density_fn`; the fused pass needs float32 on the CPU."""
        c = self._x_part(x)
        fused = not twice_differentiable and self._can_fuse() and kernel_is_available()
        weights = self._packed_y_weights() if fused else None

        def log_density(y: Tensor) -> Tensor:
            y = y.reshape(*c.shape[:2], y.shape[1])
            f = fused_log_density(y, weights, c) if fused else self._y_part(y, c)
            return f.flatten(0, 1)

        return log_density

    def x_features(self, x: Tensor) -> Tensor:
        """h_x (E, B, 10) of inputs x (E, B)."""
        return self.linear("x2", self.linear("x1", x.unsqueeze(-1)).relu()).relu()

    def _can_fuse(self) -> bool:
        return self.x1_weight.dtype == torch.float32 and self.x1_weight.device.type == "cpu"

    def _x_part(self, x: Tensor) -> Tensor:
        """Contribution of x and the bias to the joint layer, c (E, B, H)."""
        weight = self.joint_weight[:, :, :HIDDEN]
        return torch.baddbmm(self.joint_bias.unsqueeze(1), self.x_features(x), weight.mT)

    def _y_part(self, y: Tensor, c: Tensor) -> Tensor:
        """The definition of f (E, B, S) at y (E, B, S), differentiable any number of times.

        Activations are (E, H, B·S), with the long dimension last to vectorise products and tanh.
        """
        models, targets, points = y.shape
        h = torch.baddbmm(self.y1_bias.unsqueeze(-1), self.y1_weight, y.reshape(models, 1, -1))
        a = torch.bmm(self.joint_weight[:, :, HIDDEN:], h.tanh())
        a = a.view(models, HIDDEN, targets, points) + c.mT.unsqueeze(-1)
        a = a.flatten(2).tanh()
        for name in ("residual1", "residual2"):
            weight, bias = getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")
            a = a + torch.baddbmm(bias.unsqueeze(-1), weight, a).tanh()
        f = torch.baddbmm(self.out_bias.unsqueeze(-1), self.out_weight, a)
        return f.view(models, targets, points)

    def _packed_y_weights(self) -> Tensor:
        """Weights (E, 351) in the order of ``kernel.cpp``."""
        tensors = (
            self.y1_weight,
            self.y1_bias,
            self.joint_weight[:, :, HIDDEN:],
            self.residual1_weight,
            self.residual1_bias,
            self.residual2_weight,
            self.residual2_bias,
            self.out_weight,
            self.out_bias,
        )
        return torch.cat([tensor.flatten(1) for tensor in tensors], dim=1)
