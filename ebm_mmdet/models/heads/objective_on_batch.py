"""An objective on the boxes of several images, whose noise may be shared within each image."""

from __future__ import annotations

import torch
from torch import Tensor

from ...energy import Objective
from .box_log_density import BoxLogDensity

__all__ = ["objective_on_batch"]


def objective_on_batch(
    objective: Objective, fn: BoxLogDensity, targets: Tensor, avg_factor: float | Tensor | None
) -> dict[str, Tensor]:
    """Call the objective for all boxes at once, or, if its noise is shared, once per image.

    Noise with ``shared=True`` is shared within one call, and boxes of different images must not
    share it.

    Args:
        objective: the objective.
        fn: f of N boxes.
        targets: (N, D) encoded targets.
        avg_factor: divisor of the summed loss; N if None.

    Returns:
        ``loss`` and the objective's diagnostics, which are means over boxes.
    """
    if not getattr(getattr(objective, "noise", None), "shared", False):
        return objective(fn, targets, avg_factor=avg_factor)
    total = max(len(targets), 1)
    factor = total if avg_factor is None else avg_factor
    # A batch without boxes is one image without boxes: the loss must reach the parameters.
    images = fn.batch_index.unique().tolist() or [-1]
    sums: dict[str, Tensor] = {}
    for image in images:
        rows = torch.nonzero(fn.batch_index == image).squeeze(1)
        out = objective(fn.select(rows), targets[rows], avg_factor=factor)
        for name, value in out.items():
            share = value if name == "loss" else value * (len(rows) / total)
            sums[name] = sums[name] + share if name in sums else share
    return sums
