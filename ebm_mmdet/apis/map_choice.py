"""Which maps of a detector an energy head should read, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..models.detectors.dry_run import DryRun
from ..models.feature_maps import COARSEST_STRIDE, FeatureMap, fill_in_levels

__all__ = [
    "ENOUGH_CELLS",
    "REGION_SCALE",
    "WANTED_CELLS",
    "MapRow",
    "bins_for",
    "finer_modules",
    "levels_for",
    "map_rows",
    "order_of",
    "size_rule",
]

ENOUGH_CELLS, WANTED_CELLS, FEWEST_CELLS = 4, 8, 2
"""Sides of an object in cells. Below the first on the finest map, finer maps are read too, until
one gives it the second, more than a cell to each of the 7 bins that it is pooled to
(docs/trials.md); maps on which it is below the third are then not read."""

REGION_SCALE = 1.3
"""Side of the pooled region in those of the box: a box that is too small sees how far its object
goes on."""
FEWEST_BINS, USUAL_BINS, MOST_BINS = 3, 7, 20
"""Of each axis: on any map, on the finest map, and on any map."""


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


def _stages(run: DryRun, source: str) -> list[str]:
    """The backbone and its stages, as far as they come before the source."""
    parent = source.rpartition(".")[0]
    backbone = f"{parent}.backbone" if parent else "backbone"
    outside = [name for name in run.candidates() if name == backbone] if source != backbone else []
    return outside + [name for name in run.candidates() if name.startswith(f"{backbone}.")]


def finer_modules(
    run: DryRun,
    source: str,
    object_size: float,
    strides: Sequence[int],
    enough: int = ENOUGH_CELLS,
) -> list[str]:
    """The stages whose maps small objects need, coarse to fine; none where cells are enough."""
    finest = min(strides)
    if object_size >= enough * finest:
        return []
    found = {}
    for name in _stages(run, source):
        maps = run.outputs[name]
        if len(maps) == 1 and 1 < maps[0].stride < finest:
            found[maps[0].stride] = name  # of equal strides the last
    chosen = []
    for stride in sorted(found, reverse=True):
        chosen.append(found[stride])
        if object_size >= WANTED_CELLS * stride:
            break
    return chosen


def size_rule(
    object_size: float | None,
    finest: float,
    trunk: bool,
    has_finer: bool,
    enough: int = ENOUGH_CELLS,
) -> str:
    """What the size of the objects has to do with the choice of the maps.

    Args:
        object_size: in pixels, or None if it is not known.
        finest: stride of the finest map of the source.
        trunk: whether there is a box head that the trunk can start from.
        has_finer: whether the backbone has finer maps.
        enough: sides in cells, from which finer maps are not read.
    """
    rule = f"finer maps are read too, until one gives {WANTED_CELLS} cells"
    if object_size is None:
        least = enough * finest
        if not has_finer:
            return f"the finest map has stride {finest}: below {least} px it is too coarse"
        rule = f"below {least} px, {enough} cells of stride {finest}, {rule}"
        return f"{rule}{', by a fresh trunk' if trunk else ''} (--object-size)"
    cells = f"{object_size:g} px, {object_size / finest:.1f} cells of stride {finest}"
    if object_size >= enough * finest:
        return f"{cells}: {enough} are enough"
    if not has_finer:
        return f"{cells}: fewer than {enough}, but the backbone has no finer map"
    return f"{cells}: fewer than {enough}, so {rule}"


def levels_for(
    object_size: float,
    maps: Sequence[FeatureMap],
    finer: Sequence[FeatureMap],
    levels: Mapping,
) -> dict:
    """The finer maps, and maps of the source with two cells to an object, its finest anyway.

    Args:
        object_size: in pixels.
        maps: of the source.
        finer: one of each finer stage, coarse to fine.
        levels: of the source alone, from ``fill_in_levels``.
    """
    usual = levels["feature_levels"]
    kept = [i for i in usual if FEWEST_CELLS * maps[i].stride <= object_size] or usual[:1]
    added = range(len(maps) + len(finer) - 1, len(maps) - 1, -1)
    return fill_in_levels(
        {"feature_levels": [*added, *kept], "level_rule": "concat"}, [*maps, *finer]
    )


def bins_for(object_size: float, strides: Sequence[int]) -> list[int]:
    """Bins per axis for each map: one for each cell of the region around a usual object.

    Fewer bins average the cells in which a side lies; more cost and tell nothing new
    (docs/trials.md, Bins).

    Args:
        object_size: in pixels.
        strides: of the maps that are read, fine to coarse.
    """
    cells = [round(REGION_SCALE * object_size / stride) for stride in strides]
    return [
        min(max(each, FEWEST_BINS if level else USUAL_BINS), MOST_BINS)
        for level, each in enumerate(cells)
    ]


def map_rows(run: DryRun, source: str, added: Sequence[str], used: Sequence[int]) -> list[MapRow]:
    """Maps of the source, then those of the backbone that the source does not have."""
    rows = []
    maps = run.outputs[source]
    for index, each in enumerate(maps):
        why = _why(index, maps, used, finer_used=bool(added))
        rows.append(MapRow(source, index, each, index in used, why))
    finest = min(maps[index].stride for index in used if index < len(maps))
    for name in _stages(run, source):
        for index, each in enumerate(run.outputs[name]):
            if name in added:
                level = len(added) - 1 - list(added).index(name)
                why = f"level {level} of the head: small objects"
                rows.append(MapRow(name, index, each, True, why))
                continue
            stage = name.rpartition(".")[2] != "backbone"
            finer = 1 < each.stride < finest
            if stage and not finer:
                continue
            why = (
                f"finer; for smaller objects: feature_source={[source, *added, name]}"
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
