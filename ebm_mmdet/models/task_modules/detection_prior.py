"""The prior of a refiner: a Gaussian of the true box around its detection."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ...energy import prior_step_size
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
                is unknown; the bias is not finite, the scale not positive and finite, or the
                temperature negative or not finite.
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
        if not 0 <= found.temperature < math.inf:
            raise ValueError(
                f"prior.temperature={found.temperature}; expected a finite number that is not "
                "negative: 1 for f as it is, less to trust it less"
            )
        if not _are_finite(found.bias):
            raise ValueError(
                f"prior.bias={found.bias!r}; expected a finite number, or one per coordinate, as "
                "tools/analysis_tools/fit_residual_prior.py prints"
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
            Dtype and device are those of ``y0``. They, or the diagonal of L, are positive and
            finite.

        Raises:
            ValueError: ``std`` does not have length D, or is out of the range of the dtype; or it
                is ``'per_box'`` and the covariance is missing, or is not finite and positive
                definite.
        """
        std, sound = self._scaled_std(y0, covariance)
        self._require(sound, covariance)
        return std.to(y0.device, non_blocking=True)

    def std_and_step_size(
        self, y0: Tensor, covariance: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """:meth:`scaled_std`, and the step sizes of a climb that follow from it.

        Both are checked at once: with ``'per_box'`` the host waits once for a GPU, else never.

        Args:
            y0: (N, D) encoded detections.
            covariance: (N, D, D) of the same detections; read with ``'per_box'``.

        Returns:
            As :meth:`scaled_std`; and λ of :func:`~ebm_mmdet.energy.prior_step_size`, finite and
            not negative: (D,) on the host, with ``'per_box'`` (N, D) on the device of ``y0``.

        Raises:
            ValueError: as :meth:`scaled_std`; or λ is out of the range of the dtype.
        """
        std, sound = self._scaled_std(y0, covariance)
        if std.device.type == "cpu":  # costs no wait, and says more than the inversion would
            self._require(sound, covariance)
        step_size = prior_step_size(std)
        self._require(sound & ((step_size >= 0) & step_size.isfinite()).all(-1), covariance)
        return std.to(y0.device, non_blocking=True), step_size

    def _scaled_std(self, y0: Tensor, covariance: Tensor | None) -> tuple[Tensor, Tensor]:
        """``scale std``, and whether it is a prior; of a constant one both are on the host.

        Returns:
            (D,) and () bool, or L (N, D, D) and (N,) bool.
        """
        if self.std != "per_box":
            on_host = y0.new_empty(0, y0.shape[1], device="cpu")
            std = self.scale * fitting("prior.std", self.std, on_host)
            return std, _positive(std)
        if not len(y0):
            return torch.ones_like(y0), torch.ones_like(y0[:, 0], dtype=torch.bool)
        if covariance is None:
            raise ValueError(
                "prior.std='per_box' needs pred_instances.box_cov (n, D, D) or box_std (n, D), "
                "which this detector does not predict; give fixed standard deviations instead"
            )
        root, sound = _lower_triangle(covariance)
        std = self.scale * root.to(y0)
        return std, sound & _positive(std.diagonal(dim1=1, dim2=2))

    def _require(self, sound: Tensor, covariance: Tensor | None) -> None:
        """Raise ``ValueError`` unless all of ``sound`` are true."""
        if records_graph() or not sound.numel() or sound.all():
            return
        if self.std != "per_box" or covariance is None:
            raise ValueError(
                f"prior.std={self.std!r} times prior.scale={self.scale} is too small or too large "
                "for the number format of the boxes, or its square is; expected positive finite "
                "numbers, which tools/analysis_tools/fit_residual_prior.py prints"
            )
        bad = ~sound
        raise ValueError(
            f"prior.std='per_box': box_cov of {int(bad.sum())} of {len(bad)} detections is not "
            f"finite and positive definite, or prior.scale={self.scale} takes it out of range; the "
            f"first is {covariance[bad][0].tolist()}"
        )


def are_positive(values: object) -> bool:
    """Whether it is a positive finite number, or a sequence of at least one of them."""
    if isinstance(values, str):
        return False
    values = values if isinstance(values, Sequence) else [values]
    return len(values) > 0 and all(0 < value < math.inf for value in values)


def _are_finite(values: object) -> bool:
    """Whether it is a finite number, or a sequence of at least one of them."""
    if isinstance(values, str):
        return False
    values = values if isinstance(values, Sequence) else [values]
    return len(values) > 0 and all(math.isfinite(value) for value in values)


def fitting(name: str, values: float | Sequence[float], y0: Tensor) -> Tensor:
    """A number or D numbers as a tensor (D,) like ``y0`` (N, D); ``name`` is for the message."""
    found = constant(values, y0.device, y0.dtype)
    if found.dim() > 1 or found.numel() not in (1, y0.shape[1]):
        raise ValueError(
            f"{name} has {found.numel()} numbers, but boxes have {y0.shape[1]} coordinates"
        )
    return found.expand(y0.shape[1])


def _positive(std: Tensor) -> Tensor:
    """Whether all of each row (..., D) are positive and finite, (...) bool."""
    return ((std > 0) & std.isfinite()).all(-1)


def _lower_triangle(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """L (n, D, D) float64 of covariances ``L Lᵀ``, and whether they are such, (n,) bool."""
    # In float64, with a margin for the rounding of float32: one side of a box may be known so much
    # better than the other that the covariance is singular to seven digits.
    covariance = covariance.double()
    diagonal = covariance.diagonal(dim1=1, dim2=2)
    root, failed = torch.linalg.cholesky_ex(covariance + 1e-6 * torch.diag_embed(diagonal))
    return root, (failed == 0) & covariance.isfinite().flatten(1).all(1)
