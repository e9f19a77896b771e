"""Settings of objectives: numbers per coordinate, and messages about old names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Numbers", "check_dim", "numbers", "replaced_by_num_noise"]

Numbers = float | tuple[float, ...]
"""One number for all encoded coordinates, or one for each."""


def numbers(
    name: str, value: float | Sequence[float] | Tensor, allow_zero: bool = False
) -> Numbers:
    """Convert a setting to plain positive numbers, which can be compared, pickled and printed.

    Args:
        name: name of the setting, for the message.
        value: a number, or D of them.
        allow_zero: some of them, but not all, may be zero.

    Raises:
        ValueError: a number is outside its range, or there is no number.
    """
    table = torch.as_tensor(value, dtype=torch.float64)
    sound = ((table >= 0) if allow_zero else (table > 0)) & table.isfinite()
    if table.dim() > 1 or not sound.all() or not table.any():
        raise ValueError(
            f"{name}={value} must be positive and finite: one number, or one for each encoded "
            "coordinate."
        )
    return float(table) if table.dim() == 0 else tuple(table.tolist())


def check_dim(offsets: Tensor, targets: Tensor) -> None:
    """Check that offsets (N, S, D) of a noise distribution are those of targets (N, D).

    Noise of one coordinate would be added to all of them alike: f would be trained on a diagonal.

    Raises:
        ValueError: they have another D.
    """
    if offsets.shape[-1] != targets.shape[-1]:
        raise ValueError(
            f"noise of dim={offsets.shape[-1]} for targets of {targets.shape[-1]} coordinates, "
            f"each of which needs its own; set noise.dim={targets.shape[-1]}, or give rows of as "
            "many sigmas."
        )


def replaced_by_num_noise(value: Any) -> str:
    """Message that refuses ``num_samples`` for objectives that also evaluate f at the target."""
    remedy = value - 1 if isinstance(value, int) else "num_samples - 1"
    return (
        f"num_samples={value} counted the target too; give num_noise={remedy}, the number of "
        "samples besides the target."
    )
