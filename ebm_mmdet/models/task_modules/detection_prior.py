"""Where an object is likely to be, seen from its detection: the prior of a refiner."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from mmengine.structures import InstanceData
from torch import Tensor

__all__ = ["DetectionPrior"]


@dataclass(frozen=True)
class DetectionPrior:
    """The prior of ``temperature f(x, y) + log N(y; ŷ + bias, (scale std)²)``, as configs name it.

    Source of the numbers: residuals of the detector, truth minus detection ŷ in encoded
    coordinates, as ``tools/analysis_tools/fit_residual_prior.py`` fits and prints them.
    """

    std: Sequence[float] | str
    """Standard deviations of the residuals, (D,); or ``'per_box'``, read from
    ``pred_instances.box_std`` (n, D)."""
    bias: float | Sequence[float] = 0.0
    """Typical residual, a number or (D,): detectors tend to be off in one direction."""
    scale: float = 1.0
    """s, factor on ``std``."""
    temperature: float = 1.0
    """τ, factor on f; the mode depends on τ s² only."""

    @classmethod
    def from_config(cls, prior: Mapping[str, Any]) -> DetectionPrior:
        """Read ``dict(std=..., bias=0.0, scale=1.0, temperature=1.0)``.

        Raises:
            ValueError: ``std`` is missing, a key is unknown, or the scale is not positive.
        """
        if "std" not in prior or set(prior) - {field.name for field in fields(cls)}:
            raise ValueError(
                f"prior={dict(prior)!r}; expected "
                "dict(std=..., bias=0.0, scale=1.0, temperature=1.0)"
            )
        found = cls(**prior)
        if not 0 < found.scale < math.inf:
            raise ValueError(
                f"prior.scale={found.scale} must be positive and finite; without a prior, give "
                "step_size alone"
            )
        return found

    def mean(self, y0: Tensor) -> Tensor:
        """Centres (N, D) for detections ``y0`` (N, D), both encoded."""
        return y0 + y0.new_tensor(self.bias)

    def scaled_std(self, y0: Tensor, found: Sequence[InstanceData]) -> Tensor:
        """``scale std``: (D,), or (N, D) of ``'per_box'``, like ``y0`` (N, D).

        Args:
            y0: encoded detections.
            found: the same detections, image by image, N in total; read with ``'per_box'``.

        Raises:
            ValueError: ``'per_box'``, and the detections have no ``box_std``.
        """
        if self.std != "per_box":
            return self.scale * y0.new_tensor(self.std)
        # A detector without any proposal returns empty instances that lack most fields.
        found = [instances for instances in found if len(instances)]
        if not found:
            return torch.ones_like(y0)
        if any("box_std" not in instances for instances in found):
            raise ValueError(
                "prior.std='per_box' needs pred_instances.box_std (n, 4), which this detector "
                "does not predict; give fixed standard deviations instead"
            )
        return self.scale * torch.cat([instances.box_std for instances in found]).to(y0)
