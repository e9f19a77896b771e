"""Settings of objectives: numbers per coordinate, and names that are no longer accepted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["Numbers", "numbers", "refuse", "replaced_by_num_noise"]

Numbers = float | tuple[float, ...]
"""One number for all encoded coordinates, or one for each."""

_T = TypeVar("_T")


def numbers(name: str, value: float | Sequence[float] | Tensor) -> Numbers:
    """A setting as plain positive numbers, which can be compared, pickled and printed.

    Args:
        name: of the setting, for the message.
        value: a number, or D of them.

    Raises:
        ValueError: a number is not positive and finite, or there is none.
    """
    table = torch.as_tensor(value, dtype=torch.float64)
    if table.dim() > 1 or table.numel() == 0 or not ((table > 0) & table.isfinite()).all():
        raise ValueError(
            f"{name}={value} must be positive and finite: one number, or one for each encoded "
            "coordinate."
        )
    return float(table) if table.dim() == 0 else tuple(table.tolist())


def refuse(name: str, explain: Callable[[Any], str]) -> Callable[[type[_T]], type[_T]]:
    """Decorate a class so that an argument it no longer has is refused with an explanation.

    A config that inherits from one of ours may still set it. Without the explanation the error
    would be "unexpected keyword argument", which does not tell what to write instead.

    Args:
        name: the keyword argument.
        explain: the message, from the value that was given.
    """

    def decorate(cls: type[_T]) -> type[_T]:
        init = cls.__init__

        @functools.wraps(init)
        def __init__(self: _T, *args: Any, **kwargs: Any) -> None:
            if name in kwargs:
                raise ValueError(f"{cls.__name__}: {explain(kwargs[name])}")
            init(self, *args, **kwargs)

        cls.__init__ = __init__  # type: ignore[method-assign, assignment]
        return cls

    return decorate


def replaced_by_num_noise(value: Any) -> str:
    """Why ``num_samples`` is refused where the target is scored beside the samples."""
    remedy = value - 1 if isinstance(value, int) else "num_samples - 1"
    return (
        f"num_samples={value} counted the target too; give num_noise={remedy}, the number of "
        "samples besides the target."
    )
