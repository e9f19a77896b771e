"""The time of a fit, counted across interruptions."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ...files import read_json, write_json

__all__ = ["Clock"]

SAVE_SECONDS = 30.0


class Clock:
    """Seconds of work that a fit has used; what an interrupted call used counts too.

    Args:
        path: file in which the seconds are kept.
        limit: seconds that the whole fit may use.
        now: a clock in seconds that never goes back.
    """

    def __init__(self, path: Path, limit: float, now: Callable[[], float] = time.monotonic) -> None:
        self.path, self.limit, self._now = path, limit, now
        self._before = float((read_json(path) or {}).get("seconds", 0.0))
        self._start = now()
        self._saved = self._before

    def used(self) -> float:
        """Seconds used until now."""
        return self._before + self._now() - self._start

    def left(self) -> float:
        """Seconds left of the limit, not below 0."""
        return max(self.limit - self.used(), 0.0)

    def save(self) -> None:
        """Write the seconds used to the file."""
        self._saved = self.used()
        write_json(self.path, dict(seconds=round(self._saved, 1)))

    def save_regularly(self, used: float) -> None:
        """:meth:`save` if half a minute has passed since the last time.

        Args:
            used: what :meth:`used` has just said.
        """
        if used - self._saved > SAVE_SECONDS:
            self.save()
