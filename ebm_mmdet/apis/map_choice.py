"""Which maps of a detector an energy head should read, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..models.detectors.dry_run import DryRun
from ..models.feature_maps import COARSEST_STRIDE, FeatureMap, fill_in_levels

__all__ = ["MapRow", "finer_module", "levels_for", "map_rows", "order_of"]

ENOUGH_CELLS, FEWEST_CELLS = 4, 2
"""Sides of an object in cells: below the first on the finest map, a finer one is read too; maps on
which it is below the second are then not read."""


@dataclass(frozen=True)
class MapRow:
    """One map of a detector."""

    module: str
    """Dotted name of the module that gives it."""
    index: int
    """Position in the module's output."""
    map: FeatureMap
    chosen: bool
    why: str
    """Why it is chosen or not."""


def _finer_modules(run: DryRun, source: str) -> list[str]:
    """The backbone and its stages, as far as they come before the source."""
    parent = source.rpartition(".")[0]
    backbone = f"{parent}.backbone" if parent else "backbone"
    outside = [name for name in run.candidates() if name == backbone] if source != backbone else []
    return outside + [name for name in run.candidates() if name.startswith(f"{backbone}.")]


def finer_module(
    run: DryRun, source: str, object_size: float, strides: Sequence[int]
) -> str | None:
    """The stage whose map gives an object four cells, or the finest; None if none is needed."""
    finest = min(strides)
    if object_size >= ENOUGH_CELLS * finest:
        return None
    found = {}
    for name in _finer_modules(run, source):
        maps = run.outputs[name]
        if len(maps) == 1 and 1 < maps[0].stride < finest:
            found[maps[0].stride] = name  # of equal strides the last
    enough = [stride for stride in found if stride * ENOUGH_CELLS <= object_size]
    return found[max(enough, default=min(found))] if found else None


def levels_for(
    object_size: float,
    maps: Sequence[FeatureMap],
    finer: Sequence[FeatureMap],
    levels: Mapping,
) -> dict:
    """The finer map, and maps of the source with two cells to an object, its finest anyway."""
    usual = levels["feature_levels"]
    kept = [i for i in usual if FEWEST_CELLS * maps[i].stride <= object_size] or usual[:1]
    return fill_in_levels(
        {"feature_levels": [len(maps), *kept], "level_rule": "concat"}, [*maps, *finer]
    )


def map_rows(run: DryRun, source: str, added: str | None, used: Sequence[int]) -> list[MapRow]:
    """Maps of the source, then those of the backbone that the source does not have."""
    rows = []
    maps = run.outputs[source]
    for index, each in enumerate(maps):
        why = _why(index, maps, used, finer_used=added is not None)
        rows.append(MapRow(source, index, each, index in used, why))
    finest = min(maps[index].stride for index in used if index < len(maps))
    for name in _finer_modules(run, source):
        for index, each in enumerate(run.outputs[name]):
            if name == added:
                rows.append(MapRow(name, index, each, True, "level 0 of the head: small objects"))
                continue
            stage = name.rpartition(".")[2] != "backbone"
            finer = 1 < each.stride < finest
            if stage and not finer:
                continue
            why = (
                f"finer; for small objects: feature_source={[source, name]}"
                if finer and stage
                else f"{source} comes after it"
            )
            rows.append(MapRow(name, index, each, False, why))
    return rows


def _why(index: int, maps: Sequence[FeatureMap], used: Sequence[int], finer_used: bool) -> str:
    stride = maps[index].stride
    if index in used:
        return f"level {list(used).index(index)} of the head"
    if not stride:
        return "no stride fits both axes"
    if stride > COARSEST_STRIDE:
        return f"coarser than {COARSEST_STRIDE} px"
    later = max(other for other, each in enumerate(maps) if each.stride == stride)
    if finer_used and later == index:
        return "objects are too small for it"
    return f"map {later} has the same stride and comes later"


def order_of(strides: Sequence[int]) -> str:
    if len(strides) == 1:
        return "one map"
    if list(strides) == sorted(strides):
        return "fine to coarse"
    return "coarse to fine" if list(strides) == sorted(strides, reverse=True) else "mixed"
