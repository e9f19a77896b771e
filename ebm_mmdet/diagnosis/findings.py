"""The result of a check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A problem and its remedy. `fatal` findings make the exit status 1."""

    what: str
    remedy: str
    fatal: bool = True
