"""How demos and studies time models: in turns, so that other work meets all of them alike."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

__all__ = ["median_milliseconds"]


def median_milliseconds(
    batches: Iterable[object], turns: Sequence[Callable[[object], object]]
) -> list[float]:
    """Median wall times of several ways to treat a batch, loading left out.

    Args:
        batches: What is treated; every turn gets a copy of its own.
        turns: The ways; on each batch they follow one another.
    """
    seconds: list[list[float]] = [[] for _ in turns]
    for batch in batches:
        for times, turn in zip(seconds, turns):
            fresh = copy.deepcopy(batch)
            with torch.inference_mode():
                start = time.perf_counter()
                turn(fresh)
                times.append(time.perf_counter() - start)
    return [1000 * float(np.median(times)) for times in seconds]
