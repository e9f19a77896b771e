"""Integrals over one coordinate on a grid of equally spaced points: log Z, log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["log_trapezoid_weights", "map_in_chunks"]

# Values of f at a time, so that the temporaries of one evaluation stay small.
MAX_VALUES = 1 << 21


def log_trapezoid_weights(y: Tensor) -> Tensor:
    """Log of the weights (Y,) float64 of the trapezoid rule at equally spaced points y (Y,).

        log Z = logsumexp_j(f(y_j) + log w_j),   w = spacing, half of it at both ends

    Raises:
        ValueError: there are fewer than two points.
    """
    if y.dim() != 1 or len(y) < 2:
        raise ValueError(f"y has shape {tuple(y.shape)}; expected two or more points (Y,).")
    # From the ends: far from zero, float32 rounds the distance of two neighbours.
    spacing = float(y[-1].double() - y[0].double()) / (len(y) - 1)
    log_weight = torch.full((len(y),), spacing, dtype=torch.float64).log()
    log_weight[[0, -1]] -= math.log(2.0)
    return log_weight.to(y.device)


def map_in_chunks(
    evaluate: Callable[[slice], Tensor], count: int, values_per_item: int
) -> list[Tensor]:
    """Evaluate consecutive parts of ``count`` items, each of at most 2²¹ values.

    Args:
        evaluate: called with the slice of every part, in order.
        count: number of items, for example of inputs x.
        values_per_item: values of f for each, for example the points of a grid times the models.

    Returns:
        What the calls returned; nothing for no items.
    """
    step = max(1, MAX_VALUES // max(1, values_per_item))
    return [evaluate(slice(start, start + step)) for start in range(0, count, step)]
