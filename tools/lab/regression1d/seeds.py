"""Independent random streams with names: what a run draws does not depend on when it draws it."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["generator"]


def generator(seed: int, *name: str | int) -> torch.Generator:
    """A CPU generator for the stream ``name`` of run ``seed``: same arguments, same numbers.

    Permutations and noise of an epoch come from streams of their own, so a run that is resumed
    needs no state of a generator.
    """
    key = "/".join(str(part) for part in (seed, *name))
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    return torch.Generator().manual_seed(number >> 1)
