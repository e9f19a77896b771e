"""Which maps of a detector an energy head reads, and what is wrong with a choice of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

__all__ = [
    "COARSEST_STRIDE",
    "FeatureMap",
    "check_levels",
    "choose_levels",
    "fill_in_levels",
    "maps_as_table",
    "measure_maps",
]

COARSEST_STRIDE = 32
"""Coarser maps are left out by default: at such strides most objects are smaller than a cell."""

FINEST_SCALE_PER_STRIDE = 14
"""Default of ``finest_scale`` in cells of the finest level: 56 px at stride 4, as in the papers."""


class FeatureMap(NamedTuple):
    """Shape of one map of a detector."""

    channels: int
    height: int
    width: int
    stride: float
    """Pixels of the network's input per cell, rounded; 0 if the two axes differ."""

    def enlarged(self, factor: int) -> FeatureMap:
        """The same map of an image that is enlarged, in pixels of the image as it is."""
        stride = self.stride // factor if self.stride % factor == 0 else self.stride / factor
        return self._replace(height=self.height * factor, width=self.width * factor, stride=stride)


def measure_maps(maps: Sequence[Tensor], input_shape: Sequence[int]) -> list[FeatureMap]:
    """Channels, cells and stride of maps (B, C, H, W).

    Args:
        maps: the detector's maps. Something else among them counts as a map without cells, which
            fits nothing.
        input_shape: (height, width) of the network's input in pixels.
    """
    found = []
    for each in maps:
        if isinstance(each, Tensor) and each.dim() == 4:
            channels, height, width = each.shape[1:]
        else:
            channels = height = width = 0
        found.append(FeatureMap(channels, height, width, _stride(height, width, input_shape)))
    return found


def _stride(height: int, width: int, input_shape: Sequence[int]) -> int:
    """The stride that explains both sizes to within a cell, a power of two if one does; or 0."""
    if not (height and width):
        return 0
    ratio = max(input_shape[0] / height, input_shape[1] / width)
    powers = [2**k for k in range(11) if fits_stride(height, width, 2**k, input_shape)]
    if powers:
        return min(powers, key=lambda stride: abs(stride - ratio))
    nearest = max(round(ratio), 1)
    return nearest if fits_stride(height, width, nearest, input_shape) else 0


def fits_stride(height: int, width: int, stride: float, input_shape: Sequence[int]) -> bool:
    """Whether a map has the size of its stride, give or take one cell per axis."""
    return all(abs(cells - size / stride) <= 1 for cells, size in zip((height, width), input_shape))


def choose_levels(maps: Sequence[FeatureMap]) -> list[int]:
    """Levels from fine to coarse: no stride above 32, and of equal strides the last.

    If all strides are above 32, the finest level alone.

    Raises:
        ValueError: no map has one stride for both axes.
    """
    by_stride = {each.stride: level for level, each in enumerate(maps) if each.stride}
    if not by_stride:
        raise ValueError(
            "none of the detector's maps has one stride for both axes:\n"
            f"{maps_as_table(maps)}\nset feature_source to a module whose maps have one"
        )
    strides = sorted(by_stride)
    chosen = [stride for stride in strides if stride <= COARSEST_STRIDE] or strides[:1]
    return [by_stride[stride] for stride in chosen]


def fill_in_levels(head: Mapping, maps: Sequence[FeatureMap]) -> dict:
    """Complete the config of an energy head with the values that it leaves out.

    ``feature_levels`` are those of :func:`choose_levels`, among the maps with ``in_channels`` if
    that number is given; or, where ``strides`` are given, the levels with these strides.
    ``in_channels`` and ``strides`` are those of the levels, and ``level_rule`` is ``'concat'`` if
    their channels differ. Where ``strides`` are found, ``finest_scale`` defaults to 14 cells of
    the finest level. Given values stay, and are checked.

    Args:
        head: config of the head.
        maps: the detector's maps.

    Raises:
        ValueError: a given value does not fit the maps (:func:`check_levels`).
    """
    levels, strides = head.get("feature_levels"), head.get("strides")
    if levels is None:
        if strides is None:
            levels = _levels_with(head.get("in_channels"), maps)
        else:
            levels = _levels_of(strides, maps)
    if max(levels, default=0) >= len(maps) or min(levels, default=0) < 0:
        check_levels(levels, strides or [], [], maps)
    found = {"feature_levels": list(levels)}
    found["strides"] = [maps[level].stride for level in levels] if strides is None else strides
    channels = [maps[level].channels for level in levels]
    equal = len(set(channels)) == 1
    found["in_channels"] = head.get("in_channels") or (channels[0] if equal else channels)
    if not equal:
        found["level_rule"] = head.get("level_rule") or "concat"
    if strides is None and head.get("finest_scale") is None:
        found["finest_scale"] = FINEST_SCALE_PER_STRIDE * min(found["strides"], default=4)
    given = found["in_channels"]
    wanted = [given] * len(levels) if isinstance(given, int) else list(given)
    check_levels(levels, found["strides"], wanted, maps)
    return {**head, **found}


def _levels_with(in_channels: int | Sequence[int] | None, maps: Sequence[FeatureMap]) -> list[int]:
    """:func:`choose_levels` among the maps with a number of channels; among all if none has it."""
    members = [i for i, each in enumerate(maps) if each.channels == in_channels and each.stride]
    members = members or list(range(len(maps)))
    return [members[level] for level in choose_levels([maps[i] for i in members])]


def _levels_of(strides: Sequence[int], maps: Sequence[FeatureMap]) -> list[int]:
    """The first ``len(strides)`` levels if they fit, else the last level of each stride."""
    if [each.stride for each in maps[: len(strides)]] == list(strides):
        return list(range(len(strides)))
    by_stride = {each.stride: level for level, each in enumerate(maps)}
    if not set(strides) <= by_stride.keys():
        raise ValueError(
            f"strides={list(strides)}, but the detector's maps are:\n{maps_as_table(maps)}\n"
            f"{lines_to_paste(maps)}"
        )
    return [by_stride[stride] for stride in strides]


def check_levels(
    levels: Sequence[int],
    strides: Sequence[float],
    in_channels: Sequence[int],
    maps: Sequence[FeatureMap],
    input_shape: Sequence[int] | None = None,
) -> None:
    """Compare what a head expects with the maps that there are.

    Args:
        levels: indices of the levels that are used.
        strides: stride of each of them.
        in_channels: channels of each of them.
        maps: every map of the detector.
        input_shape: (height, width) of the network's input. None: ``strides`` are compared with
            those of ``maps`` instead of with their sizes.

    Raises:
        ValueError: a level does not exist, or has other channels or another stride. The message
            names stride, channels and level of all maps, and has lines that fit.
    """
    wrong = _first_mismatch(levels, strides, in_channels, maps, input_shape)
    if wrong:
        raise ValueError(
            f"{wrong}. The detector's maps:\n{maps_as_table(maps)}\n{lines_to_paste(maps)}"
        )


def _first_mismatch(
    levels: Sequence[int],
    strides: Sequence[float],
    in_channels: Sequence[int],
    maps: Sequence[FeatureMap],
    input_shape: Sequence[int] | None,
) -> str:
    """A clause about the first thing that does not fit; empty if everything fits."""
    for level in levels:
        if not 0 <= level < len(maps):
            return (
                f"feature_levels={tuple(levels)} but the detector gives {len(maps)} maps; choose "
                f"indices below {len(maps)}"
            )
    for level, channels in zip(levels, in_channels):
        if maps[level].channels != channels:
            return (
                f"level {level} of the features has {maps[level].channels} channels, expected "
                f"{channels} of in_channels={tuple(in_channels)}; set energy_head.in_channels="
                f"{[maps[used].channels for used in levels]}"
            )
    for level, stride in zip(levels, strides):
        found = maps[level]
        if input_shape is None:
            if found.stride != stride:
                return (
                    f"level {level} of the features has stride {found.stride}, expected {stride} "
                    f"of strides={tuple(strides)}"
                )
        elif not fits_stride(found.height, found.width, stride, input_shape):
            rows, columns = (-(-size // stride) for size in input_shape)
            return (
                f"level {level} of the features has {found.height} x {found.width} cells, but "
                f"stride {stride} of strides={tuple(strides)} gives {rows:g} x {columns:g} for an "
                f"input of {input_shape[0]} x {input_shape[1]} pixels; set energy_head.strides to "
                f"those of feature_levels={tuple(levels)}, about "
                f"{input_shape[0] / found.height:.0f} here"
            )
    return ""


def maps_as_table(maps: Sequence[FeatureMap]) -> str:
    """One line per map: level, stride, channels and cells."""
    rows = ["  level  stride  channels  cells"]
    rows += [
        f"  {level:5}  {each.stride or '?':>6}  {each.channels:8}  {each.height} x {each.width}"
        for level, each in enumerate(maps)
    ]
    return "\n".join(rows)


def lines_to_paste(maps: Sequence[FeatureMap]) -> str:
    """Settings of an energy head that fit the maps, ready to paste; or nothing if none do."""
    try:
        levels = choose_levels(maps)
    except ValueError:
        return "none of them can be used; choose another feature_source"
    channels = [maps[level].channels for level in levels]
    equal = len(set(channels)) == 1
    lines = [
        "Lines for energy_head that fit (or leave all three out, and they are found):",
        f"    in_channels={channels[0] if equal else channels},",
        f"    strides={[maps[level].stride for level in levels]},",
        f"    feature_levels={levels},",
    ]
    return "\n".join(lines if equal else [*lines, "    level_rule='concat',"])
