"""Timing: wall time, on fresh inputs, with the candidates in turns."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import torch

__all__ = ["median_milliseconds", "take_turns", "timed"]

Input = TypeVar("Input")
Output = TypeVar("Output")


def timed(run: Callable[..., Output], *arguments: object) -> tuple[Output, float]:
    """Call a function; returns its result and its duration in seconds, work on a GPU included."""
    _wait()
    start = time.perf_counter()
    result = run(*arguments)
    _wait()
    return result, time.perf_counter() - start


def take_turns(candidates: Sequence[Callable[[Input], object]], inputs: Iterable[Input]):
    """Time every candidate on every input, in seconds.

    On each input the candidates run one after another, so that other work on the machine affects
    them equally. Each gets a deep copy, because models change their inputs; copying and loading are
    not timed.

    Args:
        candidates: functions to time, each called with one input.
        inputs: for example the batches of a loader.

    Returns:
        (candidates, inputs) float64.
    """
    seconds = [[timed(run, copy.deepcopy(value))[1] for run in candidates] for value in inputs]
    return np.array(seconds, float).reshape(-1, len(candidates)).T


def median_milliseconds(
    candidates: Sequence[Callable[[Input], object]], inputs: Iterable[Input]
) -> list[float]:
    """Median over the inputs for each candidate; see :func:`take_turns`."""
    return [1e3 * float(value) for value in np.median(take_turns(candidates, inputs), axis=1)]


def _wait() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
