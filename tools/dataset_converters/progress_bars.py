"""Switches off mmengine's progress bars, which write to the screen and not to standard output."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import mmengine

__all__ = ["no_progress_bars"]


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Context in which ``mmengine.track_iter_progress`` iterates without drawing."""
    drawn = mmengine.track_iter_progress
    # Tasks are a sequence, or a tuple of an iterable and its length.
    mmengine.track_iter_progress = lambda tasks: iter(
        tasks[0] if isinstance(tasks, tuple) else tasks
    )
    try:
        yield
    finally:
        mmengine.track_iter_progress = drawn
