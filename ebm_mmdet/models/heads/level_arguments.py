"""Whether the arguments of a head fit its levels, of which some take one value for each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

__all__ = ["channels_of_levels", "level_indices", "pool_size_of_levels", "roi_shift_of_levels"]


def level_indices(
    feature_levels: Sequence[int] | None, strides: Sequence[int], level_rule: str
) -> tuple[int, ...]:
    """Indices of the levels among the detector's features; the first ones by default.

    Raises:
        ValueError: ``level_rule`` is unknown, there is not one stride for each level, or strides
            are not ascending with ``'assign'``.
    """
    if level_rule not in ("assign", "concat"):
        raise ValueError(f"level_rule={level_rule!r} is unknown; use 'assign' or 'concat'")
    levels = tuple(range(len(strides)) if feature_levels is None else feature_levels)
    if len(levels) != len(strides):
        raise ValueError(
            f"{len(levels)} feature_levels {levels} but {len(strides)} strides "
            f"{tuple(strides)}; give one stride for every level that is used"
        )
    if level_rule == "assign" and any(a >= b for a, b in itertools.pairwise(strides)):
        ascending = sorted(dict(zip(strides, levels)).items())
        raise ValueError(
            f"strides={list(strides)} with level_rule='assign', which needs levels from fine "
            "to coarse, each stride once; otherwise boxes would read the wrong map. Set "
            f"strides={[stride for stride, _ in ascending]}, "
            f"feature_levels={[level for _, level in ascending]}, or level_rule='concat'"
        )
    return levels


def channels_of_levels(
    in_channels: int | Sequence[int], num_levels: int, level_rule: str
) -> tuple[int, ...]:
    """Channels of each level.

    Raises:
        ValueError: there is not one number for each level, or they differ with ``'assign'``.
    """
    channels = (in_channels,) * num_levels if isinstance(in_channels, int) else tuple(in_channels)
    if len(channels) != num_levels or (level_rule == "assign" and len(set(channels)) > 1):
        raise ValueError(
            f"in_channels={in_channels} for {num_levels} levels with {level_rule=}; give one "
            "number, or one per level with level_rule='concat'"
        )
    return channels


def pool_size_of_levels(
    pool_size: int | Sequence[int], num_levels: int, level_rule: str
) -> int | tuple[int, ...]:
    """The number of bins per axis, or that of each level.

    Raises:
        ValueError: a number is not positive, or several do not fit the levels or the rule.
    """
    one = isinstance(pool_size, int)
    sizes = (pool_size,) * num_levels if one else tuple(pool_size)
    if (not one and (level_rule == "assign" or len(sizes) != num_levels)) or min(sizes) < 1:
        raise ValueError(
            f"pool_size={pool_size} for {num_levels} levels with {level_rule=}; give one "
            "positive number, or one per level with level_rule='concat'"
        )
    return pool_size if one else sizes


def roi_shift_of_levels(
    roi_shift: float | Sequence[float], num_levels: int
) -> float | tuple[float, ...]:
    """The shift of RoIs in cells, or that of each level.

    Raises:
        ValueError: there is not one number for each level.
    """
    if isinstance(roi_shift, (int, float)):
        return float(roi_shift)
    shifts = tuple(float(each) for each in roi_shift)
    if len(shifts) != num_levels:
        raise ValueError(
            f"roi_shift={list(shifts)} for {num_levels} levels; give one number, or one per level"
        )
    return shifts
