"""KL-Loss: box regression that also learns a variance for every side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from ...energy.log_density import at_least_float32
from ...energy.recoverable_clamp import recoverable_clamp
from ...energy.reduction import reduce_loss

__all__ = ["KLLoss", "kl_loss", "limit_alpha"]

_REPRESENTABLE = (-60.0, 60.0)
"""Limits that apply if none are configured. In float32, e^60 d overflows beyond d = 3e12, and
e^60 d² / 2 (the "gaussian" form) beyond d = 2e6; boxes of an image differ by at most 1e5 units."""


def limit_alpha(alpha: Tensor, limits: Sequence[float] | None) -> Tensor:
    """Keep log-variances inside ``limits`` = (low, high), or inside (-60, 60) for None.

    Values are clamped. The gradient is that of the identity, except that it is 0 for an α outside
    the limits that gradient descent would move further out. So an α that has left the limits can
    return, which an ordinary clamp prevents.

    Args:
        alpha: log σ², any shape, floating point; infinities count as large numbers.
    """
    low, high = _REPRESENTABLE if limits is None else limits
    return recoverable_clamp(alpha.to(at_least_float32(alpha.dtype)), low, high)


def kl_loss(
    pred: Tensor,
    target: Tensor,
    alpha: Tensor,
    form: Literal["smooth", "gaussian"] = "smooth",
) -> Tensor:
    """KL divergence from a Gaussian to the annotation, per coordinate, up to constants.

        d = |target - pred|,   α = log σ²

        "smooth"    e^-α d² / 2 + α / 2          for d <= 1
                    e^-α (d - 1/2) + α / 2       for d > 1
        "gaussian"  e^-α d² / 2 + α / 2          everywhere

    Value and slope are continuous at d = 1, and for α = 0 the loss is smooth L1 with beta 1. For a
    given d the loss is smallest at σ² = d² (d <= 1 or "gaussian") or σ² = 2 d - 1. It may be
    negative there, because it is a negative log-density without the constant log(2π) / 2.

    Args:
        pred: predicted coordinates in normalised units, any shape.
        target: coordinates of the annotation, the same shape.
        alpha: log-variances of the coordinates, the same shape, finite.
        form: ``"smooth"`` (eq. 9 and 10) or ``"gaussian"``.

    Returns:
        Losses of the coordinates, the same shape, float32 or better, also under autocast.

    Raises:
        ValueError: the shapes are not equal, or the form is unknown.

    Source: He et al., "Bounding Box Regression with Uncertainty for Accurate Object Detection",
    CVPR 2019 (arXiv:1809.08545), eq. 9 and eq. 10.
    """
    if not pred.shape == target.shape == alpha.shape:
        raise ValueError(
            f"pred {tuple(pred.shape)}, target {tuple(target.shape)} and alpha "
            f"{tuple(alpha.shape)} must have the same shape: one log-variance for every coordinate."
        )
    if form not in ("smooth", "gaussian"):
        raise ValueError(f"form={form!r} is unknown; use 'smooth' or 'gaussian'.")
    pred, target, alpha = (x.to(at_least_float32(x.dtype)) for x in (pred, target, alpha))
    distance = (target - pred).abs()
    cost = 0.5 * distance.square()
    if form == "smooth":
        cost = torch.where(distance > 1, distance - 0.5, cost)
    return torch.exp(-alpha) * cost + 0.5 * alpha


@MODELS.register_module()
class KLLoss(nn.Module):
    """:func:`kl_loss` with weights and reduction as in mmdet, and limits for α.

    Args:
        form: ``'smooth'`` is the paper's; ``'gaussian'`` is the likelihood without its linear
            tail.
        reduction: ``'mean'``, ``'sum'`` or ``'none'``.
        loss_weight: factor on the loss.
        alpha_limits: (low, high) of α, see :func:`limit_alpha`; None for no limits, as in the
            paper. No α of a healthy training reaches limits of ±10, where the standard deviation is
            148 or 1 / 148 of the unit of normalised boxes. Predictions are limited in the same way.

    Raises:
        ValueError: the limits are not two finite numbers in order.
    """

    def __init__(
        self,
        form: str = "smooth",
        reduction: str = "mean",
        loss_weight: float = 1.0,
        alpha_limits: Sequence[float] | None = (-10.0, 10.0),
    ) -> None:
        super().__init__()
        if alpha_limits is not None:
            low, high = alpha_limits
            if not _REPRESENTABLE[0] <= low < high <= _REPRESENTABLE[1]:
                raise ValueError(
                    f"alpha_limits={alpha_limits!r}; expected low < high within {_REPRESENTABLE}, "
                    "or None"
                )
        self.form, self.reduction, self.loss_weight = form, reduction, loss_weight
        self.alpha_limits = alpha_limits

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        alpha: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Reduce the losses of all coordinates.

        Args:
            pred: (n, 4) normalised coordinates of boxes; n may be 0, the loss is then a zero
                connected to the graph.
            target: (n, 4) of the annotations.
            alpha: (n, 4) log-variances of the same coordinates.
            weight: (n, 4) factors.
            avg_factor: divisor of the sum instead of the number of coordinates.
            reduction_override: replaces ``reduction``.

        Returns:
            A scalar, or (n, 4) for ``'none'``; float32 or better. It may be negative.
        """
        loss = kl_loss(pred, target, limit_alpha(alpha, self.alpha_limits), self.form)
        shape, weight = loss.shape, None if weight is None else weight.flatten()
        reduction = reduction_override or self.reduction
        loss = self.loss_weight * reduce_loss(loss.flatten(), weight, reduction, avg_factor)
        return loss.view(shape) if reduction == "none" else loss
