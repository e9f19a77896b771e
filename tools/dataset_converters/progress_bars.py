"""mmengine's progress bars write to the screen whatever standard output is; this keeps them off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import mmengine

__all__ = ["no_progress_bars"]


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Inside, ``mmengine.track_iter_progress`` iterates and draws nothing."""
    drawn = mmengine.track_iter_progress
    mmengine.track_iter_progress = iter
    try:
        yield
    finally:
        mmengine.track_iter_progress = drawn
