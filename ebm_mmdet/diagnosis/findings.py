"""What a check answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that does not fit. `fatal` findings make the exit status 1."""

    what: str
    remedy: str
    fatal: bool = True
