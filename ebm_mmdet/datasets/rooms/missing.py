"""Which images of a generated set lack depth, normals or the scene type."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ["MODALITIES", "absent_modalities", "check_shares"]

MODALITIES = ("depth", "normals", "scene")

_STREAM = 32452843  # a prime for this random stream


def check_shares(missing: Mapping[str, float] | None) -> dict[str, float]:
    """The shares of images that lack a modality, as a dictionary.

    Raises:
        KeyError: a name that is not one of `MODALITIES`.
        ValueError: a share that is not in [0, 1].
    """
    missing = dict(missing or {})
    for name, share in missing.items():
        if name not in MODALITIES:
            raise KeyError(f"missing={missing}: {name!r} is not one of {MODALITIES}")
        if not 0 <= share <= 1:
            raise ValueError(f"missing={missing}: the share of {name} is not in [0, 1]")
    return missing


def absent_modalities(seed: int, index: int, missing: Mapping[str, float]) -> set[str]:
    """What image ``index`` of set ``seed`` lacks, independently for each modality.

    An image that lacks a modality at some share lacks it at every larger share too.
    """
    draws = np.random.default_rng([_STREAM, seed, index]).random(len(MODALITIES))
    return {name for name, u in zip(MODALITIES, draws) if u < missing.get(name, 0.0)}
