"""The prior of a refiner: a Gaussian of the true box around its detection."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ...energy.host_reads import constant, records_graph

__all__ = ["DetectionPrior", "are_positive", "fitting"]


@dataclass(frozen=True)
class DetectionPrior:
    """The prior of ``temperature f(x, y) + log N(y; ŷ + bias, (scale std)²)``, as configs name it.

    The numbers come from the detector's residuals, truth minus detection ŷ in encoded coordinates;
    ``tools/analysis_tools/fit_residual_prior.py`` fits and prints them.
    """

    std: Sequence[float] | str
    """Standard deviations of the residuals, (D,); or ``'per_box'``, the detector's own uncertainty:
    the covariance ``pred_instances.box_cov`` (n, D, D), or else ``box_std`` (n, D), which means
    independent errors."""
    bias: float | Sequence[float] = 0.0
    """Typical residual, a number or (D,): the errors of detectors often have a preferred sign."""
    scale: float = 1.0
    """s, factor on ``std``."""
    temperature: float = 1.0
    """τ, factor on f; the mode depends only on τ s²."""

    @classmethod
    def from_config(cls, prior: Mapping[str, Any]) -> DetectionPrior:
        """Read ``dict(std=..., bias=0.0, scale=1.0, temperature=1.0)``.

        Raises:
            ValueError: ``std`` is missing, or is neither positive numbers nor ``'per_box'``; a key
                is unknown; or the scale is not positive.
        """
        if "std" not in prior or set(prior) - {field.name for field in fields(cls)}:
            raise ValueError(
                f"prior={dict(prior)!r}; expected "
                "dict(std=..., bias=0.0, scale=1.0, temperature=1.0)"
            )
        found = cls(**prior)
        if found.std != "per_box" and not are_positive(found.std):
            raise ValueError(
                f"prior.std={found.std!r}; expected one positive number per coordinate, which "
                "tools/analysis_tools/fit_residual_prior.py prints, or 'per_box'"
            )
        if not 0 < found.scale < math.inf:
            raise ValueError(
                f"prior.scale={found.scale} must be positive and finite; without a prior, give "
                "step_size alone"
            )
        return found

    def mean(self, y0: Tensor) -> Tensor:
        """Centres (N, D) for detections ``y0`` (N, D), both encoded.

        Raises:
            ValueError: ``bias`` does not have length D.
        """
        return y0 + fitting("prior.bias", self.bias, y0)

    def scaled_std(self, y0: Tensor, covariance: Tensor | None = None) -> Tensor:
        """``scale std`` for detections ``y0``, in the format of ``with_gaussian_prior``.

        Args:
            y0: (N, D) encoded detections.
            covariance: (N, D, D) of the same detections; read with ``'per_box'``.

        Returns:
            (D,); with ``'per_box'`` the lower triangle L (N, D, D) of ``L Lᵀ = scale² covariance``.
            Dtype and device are those of ``y0``.

        Raises:
            ValueError: ``std`` does not have length D; or it is ``'per_box'`` and the covariance is
                missing, or is not finite and positive definite.
        """
        if self.std != "per_box":
            return self.scale * fitting("prior.std", self.std, y0)
        if not len(y0):
            return torch.ones_like(y0)
        if covariance is None:
            raise ValueError(
                "prior.std='per_box' needs pred_instances.box_cov (n, D, D) or box_std (n, D), "
                "which this detector does not predict; give fixed standard deviations instead"
            )
        return self.scale * _lower_triangle(covariance).to(y0)


def are_positive(values: object) -> bool:
    """Whether it is a positive finite number, or a sequence of at least one of them."""
    if isinstance(values, str):
        return False
    values = values if isinstance(values, Sequence) else [values]
    return len(values) > 0 and all(0 < value < math.inf for value in values)


def fitting(name: str, values: float | Sequence[float], y0: Tensor) -> Tensor:
    """A number or D numbers as a tensor (D,) like ``y0`` (N, D); ``name`` is for the message."""
    found = constant(values, y0.device, y0.dtype)
    if found.dim() > 1 or found.numel() not in (1, y0.shape[1]):
        raise ValueError(
            f"{name} has {found.numel()} numbers, but boxes have {y0.shape[1]} coordinates"
        )
    return found.expand(y0.shape[1])


def _lower_triangle(covariance: Tensor) -> Tensor:
    """L (n, D, D) float64 of covariances ``L Lᵀ``."""
    # In float64, with a margin for the rounding of float32: one side of a box may be known so much
    # better than the other that the covariance is singular to seven digits.
    covariance = covariance.double()
    diagonal = covariance.diagonal(dim1=1, dim2=2)
    root, failed = torch.linalg.cholesky_ex(covariance + 1e-6 * torch.diag_embed(diagonal))
    bad = (failed != 0) | ~covariance.isfinite().flatten(1).all(1)
    if not records_graph() and bad.any():
        raise ValueError(
            f"prior.std='per_box': box_cov of {int(bad.sum())} of {len(bad)} detections is not "
            f"finite and positive definite, the first is {covariance[bad][0].tolist()}"
        )
    return root
