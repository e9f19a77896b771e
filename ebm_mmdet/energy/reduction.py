"""Weighting and reduction of losses per target, with mmdet's meaning of the arguments."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Reduction", "reduce_loss"]

Reduction = Literal["none", "mean", "sum"]


def reduce_loss(
    loss: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """Weight and reduce a loss (N,) per target, with mmdet's meaning of the arguments.

    mean: Σ w_n L_n / N, or Σ w_n L_n / avg_factor; 0 and not NaN for N = 0.

    Raises:
        ValueError: unknown reduction; ``avg_factor`` with ``"sum"``; weight of another shape.
    """
    if weight is not None:
        if weight.shape != loss.shape:
            raise ValueError(
                f"weight has shape {tuple(weight.shape)}; expected one factor per target, "
                f"{tuple(loss.shape)}."
            )
        loss = loss * weight.to(loss.dtype)
    if reduction == "none":
        return loss
    if reduction == "sum" and avg_factor is None:
        return loss.sum()
    if reduction == "mean":
        if avg_factor is None:
            return loss.sum() / max(len(loss), 1)
        # The epsilon is mmdet's: a batch without targets has avg_factor 0 and loss 0, not NaN.
        return loss.sum() / (avg_factor + torch.finfo(torch.float32).eps)
    raise ValueError(
        f"reduction={reduction!r} with avg_factor={avg_factor!r} is not defined; use 'mean' "
        "(with or without avg_factor), or 'sum' or 'none' without it."
    )
