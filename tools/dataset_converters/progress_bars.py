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
    mmengine.track_iter_progress = iter
    try:
        yield
    finally:
        mmengine.track_iter_progress = drawn
