"""Independent named random streams, so that draws do not depend on their order."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["generator"]


def generator(seed: int, *name: str | int) -> torch.Generator:
    """A CPU generator for the stream ``name`` of run ``seed``: same arguments, same numbers.

    Permutations and noise of an epoch have separate streams, so a resumed run does not need the
    state of a generator.
    """
    key = "/".join(str(part) for part in (seed, *name))
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    return torch.Generator().manual_seed(number >> 1)
