"""Lines about how far a step is, at most one every ten seconds; its time is kept meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from .clock import Clock

__all__ = ["Progress"]

SECONDS = 10.0
WIDTH = 20


class Progress:
    """Says the share of a step that is done, as a bar and a number.

    Args:
        name: of the step.
        say: receives the lines.
        clock: of the fit.
    """

    def __init__(self, name: str, say: Callable[[str], None], clock: Clock) -> None:
        self.name, self.say, self.clock = name, say, clock
        self._said = clock.used()

    def __call__(self, share: float) -> None:
        """Say it if ten seconds have passed since the last line, and save the clock now and then.

        So the time of a step counts also if it is killed before its result is there.
        """
        now = self.clock.used()
        self.clock.save_regularly(now)
        if now - self._said < SECONDS:
            return
        self._said = now
        full = int(WIDTH * min(share, 1.0))
        bar = "#" * full + "." * (WIDTH - full)
        left = self.clock.left() / 60
        self.say(f"{self.name:20} {bar} {100 * share:3.0f} %, {left:.1f} min left in all")
