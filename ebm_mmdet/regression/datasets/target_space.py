"""What a target is: names, units, ranges, periods, and what mirroring the image does to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["TargetError", "check_targets", "complete_target", "target_statistics"]


class TargetError(ValueError):
    """Targets are not as declared; the message names file, row, value and remedy."""


def complete_target(target: Mapping[str, Any] | None, source: str) -> dict:
    """Check the entry ``target`` of a data set's metainfo, and fill in what may be left out.

    Args:
        target: ``ranges``, a pair (low, high) for each of the D coordinates, is required.
            ``names`` (default ``target`` or ``target_0``, ...), ``units`` (empty),
            ``periods`` (None: the coordinate is not an angle), ``integer`` (False) and
            ``flip_signs``: the factor, 1 or -1, by which each coordinate changes when the image is
            mirrored left to right; None, the default, if a mirrored image has no known target. The
            range of a coordinate with -1 has to be symmetric about 0, unless it is periodic.
        source: what the target belongs to, for messages.

    Returns:
        All six entries, as tuples of plain numbers and strings.

    Raises:
        TargetError: an entry is unknown, missing or not as expected.
    """
    target = dict(target or {})
    known = {"names", "units", "ranges", "periods", "flip_signs", "integer"}
    unknown = sorted(set(target) - known)
    if unknown:
        raise TargetError(
            f"{source}: metainfo['target'] has the unknown entry {unknown[0]!r}; known are "
            f"{', '.join(sorted(known))}"
        )
    ranges = target.get("ranges")
    example = "metainfo=dict(target=dict(names=('age',), ranges=((0, 100),)))"
    if ranges is None:
        raise TargetError(
            f"{source}: the range of the targets is not declared. Densities are normalised over "
            f"it, so it cannot be guessed: {example}"
        )
    try:
        ranges = tuple((float(low), float(high)) for low, high in ranges)
    except (TypeError, ValueError):
        raise TargetError(
            f"{source}: ranges={ranges!r}; expected a pair (low, high) for each coordinate, as in "
            f"{example}"
        ) from None
    if not ranges or not all(math.isfinite(a) and math.isfinite(b) and a < b for a, b in ranges):
        raise TargetError(f"{source}: ranges={ranges!r}; each needs finite low < high")
    dim = len(ranges)

    def per_coordinate(name: str, default: Any) -> tuple:
        values = target.get(name)
        if values is None:
            return (default,) * dim
        if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != dim:
            raise TargetError(
                f"{source}: {name}={values!r}; expected a tuple of {dim}, one for each range"
            )
        return tuple(values)

    names = per_coordinate("names", None)
    if names == (None,) * dim:
        names = ("target",) if dim == 1 else tuple(f"target_{d}" for d in range(dim))
    if len(set(names)) != dim:
        raise TargetError(f"{source}: names={names!r} must differ from each other")
    periods = per_coordinate("periods", None)
    for name, (low, high), period in zip(names, ranges, periods):
        if period is not None and not math.isclose(high - low, period, rel_tol=1e-6):
            raise TargetError(
                f"{source}: the range ({low:g}, {high:g}) of {name!r} must be one period long, "
                f"that is {period:g}, such as (-180, 180) for degrees"
            )
    signs = target.get("flip_signs")
    if signs is not None:
        signs = per_coordinate("flip_signs", None)
        if not all(sign in (-1, 1) for sign in signs):
            raise TargetError(f"{source}: flip_signs={signs!r}; each must be 1 or -1, or all None")
        for name, (low, high), period, sign in zip(names, ranges, periods, signs):
            if sign == -1 and period is None and not math.isclose(low, -high, rel_tol=1e-6):
                widest = max(-low, high)
                raise TargetError(
                    f"{source}: flip_signs is -1 for {name!r}, but its range ({low:g}, {high:g}) "
                    "is not symmetric about 0: a mirrored label may lie outside. Declare "
                    f"({-widest:g}, {widest:g}), here and in the codec, or give no flip_signs and "
                    "leave RandomFlipTarget out"
                )
        signs = tuple(float(sign) for sign in signs)
    return {
        "names": tuple(map(str, names)),
        "units": tuple(map(str, per_coordinate("units", ""))),
        "ranges": ranges,
        "periods": tuple(None if period is None else float(period) for period in periods),
        "flip_signs": signs,
        "integer": bool(target.get("integer", False)),
    }


def check_targets(targets: np.ndarray, target: Mapping, place: Callable[[int], str]) -> None:
    """Check labels against the declared target.

    Angles, which have a period, may have any finite value.

    Args:
        targets: ``(N, D)`` in raw units.
        target: as given by `complete_target`.
        place: ``row -> text`` that says where a row comes from, for the message.

    Raises:
        TargetError: a label is not finite, outside its range, or not an integer where integers
            are declared. The message names the first such row and the number of them.
    """

    def stop(wrong: np.ndarray, expected: str) -> None:
        if not wrong.any():
            return
        row, d = (int(i) for i in np.argwhere(wrong)[0])
        name, value = target["names"][d], targets[row, d]
        raise TargetError(
            f"{place(row)}: {name!r} is {value:g}; expected {expected.format(d=d)}. This concerns "
            f"{int(wrong.any(1).sum())} of {len(targets)} rows: correct or remove them"
        )

    stop(~np.isfinite(targets), "a finite number")
    low, high = np.array(target["ranges"]).T
    linear = np.array([period is None for period in target["periods"]])
    outside = ((targets < low) | (targets > high)) & linear
    if outside.any():
        d = int(np.argwhere(outside)[0][1])
        a, b = target["ranges"][d]
        stop(
            outside,
            f"a value in the declared range {a:g} .. {b:g} (or widen metainfo['target']['ranges'])",
        )
    if target["integer"]:
        stop(
            targets != np.rint(targets),
            "an integer, as integer=True of metainfo['target'] declares",
        )


def target_statistics(targets: np.ndarray) -> dict:
    """Mean, standard deviation and extremes of targets.

    Args:
        targets: ``(N, D)`` in raw units.

    Returns:
        ``dict(mean=[...], std=[...], min=[...], max=[...], count=N)`` with D numbers each; a
        coordinate with a NaN has NaN in all of them.
    """
    targets = np.asarray(targets, np.float64)
    return {
        "mean": targets.mean(0).tolist(),
        "std": targets.std(0).tolist(),
        "min": targets.min(0).tolist(),
        "max": targets.max(0).tolist(),
        "count": len(targets),
    }
