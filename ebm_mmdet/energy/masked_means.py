"""Means over those samples of a target that exist."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["log_mean_exp", "masked_mean"]


def log_mean_exp(logits: Tensor, valid: Tensor | None) -> Tensor:
    """The (N,) log of the mean of exp over the samples (N, M) that exist; 0 where none does."""
    if valid is None:
        return logits.logsumexp(1) - math.log(logits.shape[1])
    valid = valid.to(torch.bool)
    count = valid.sum(1)
    # Finite where nothing is left, or the gradient of the discarded row would be NaN.
    logits = logits.masked_fill(~valid, -torch.inf).masked_fill(count[:, None] == 0, 0)
    return (logits.logsumexp(1) - count.to(logits.dtype).log()).where(count > 0, 0)


def masked_mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """The (N,) mean over the samples (N, M) that exist; 0 where none does."""
    if valid is None:
        return values.mean(1)
    valid = valid.to(torch.bool)
    return values.where(valid, 0).sum(1) / valid.sum(1).clamp(min=1)
