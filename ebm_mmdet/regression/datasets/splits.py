"""Divide a data set into parts: at random, by blocks of time, or by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["split_indices"]

_KINDS = ("random", "blocks", "group")


def split_indices(
    num: int,
    part: str,
    kind: str = "random",
    parts: Mapping[str, float] | None = None,
    seed: int = 0,
    groups: Sequence[str | None] | None = None,
    num_blocks: int = 20,
    gap: int = 0,
    images: Sequence[str] | None = None,
) -> np.ndarray:
    """Indices of one part of a data set.

    - ``random``: every image by itself. Neighbouring frames of a video then lie on both sides, and
      results look better than they are; published numbers often use it.
    - ``blocks``: the order of the file is taken as the order of time, and cut into `num_blocks`
      blocks of equal length, which are dealt out at random.
    - ``group``: all images of a group (a person, a sequence, a slide) come to the same part.

    Args:
        num: number of images, or of rows.
        part: name of the part wanted.
        kind: see above.
        parts: the share of every part, such as ``dict(train=0.8, test=0.2)``, which is the default.
            Shares are rounded to whole images, blocks or groups. If all values are integers,
            they are numbers of images, and only ``random`` takes them. If the shares add up to
            less than the whole, the rest is in no part.
        seed: seed of the division; the same for all parts.
        groups: name of the group of every image, for ``group``.
        num_blocks: number of blocks, for ``blocks``.
        gap: number of images left out at each border of a block next to another part, so that the
            last frame of a part is not the neighbour of the first one of another.
        images: name of the image of every row, if several rows may be of one image: all of them
            then come to the same part, and `num` rows count as their distinct images. A split by
            group divides by group alone.

    Returns:
        Sorted indices, int64. Parts with the same other arguments never overlap.

    Raises:
        ValueError: an argument is not as expected, or the part would be empty.
    """
    parts = {"train": 0.8, "test": 0.2} if parts is None else dict(parts)
    if kind not in _KINDS:
        raise ValueError(f"split kind {kind!r}; expected one of {', '.join(map(repr, _KINDS))}")
    if part not in parts:
        raise ValueError(f"split part {part!r}; there are {', '.join(map(repr, parts))}")
    if images is not None and kind != "group":
        if len(images) != num:
            raise ValueError(f"{len(images)} names of images for {num} rows; give one for each row")
        place: dict[str, int] = {}  # in the order of the rows, so that blocks stay those of time
        image = np.array([place.setdefault(name, len(place)) for name in images], np.int64)
        chosen = split_indices(len(place), part, kind, parts, seed, num_blocks=num_blocks, gap=gap)
        return np.flatnonzero(np.isin(image, chosen))
    # A stream of uniform numbers is stable over versions of NumPy, `permutation` need not be.
    rng = np.random.Generator(np.random.Philox(key=[seed, 0x51717]))
    if kind == "random":
        units = np.arange(num)
    elif kind == "blocks":
        if num_blocks < 1 or gap < 0:
            raise ValueError(f"num_blocks={num_blocks} and gap={gap}; expected >= 1 and >= 0")
        units = np.arange(num) * min(num_blocks, num) // max(num, 1)
    else:
        if groups is None or len(groups) != num or any(group is None for group in groups):
            raise ValueError(
                "a split by group needs the group of every image: give the column that holds it"
            )
        names = sorted(set(map(str, groups)))
        number = {name: i for i, name in enumerate(names)}
        units = np.array([number[str(group)] for group in groups], np.int64)
    of_unit = _deal(int(units.max(initial=-1)) + 1, part, kind, parts, rng)
    chosen = np.zeros(num, bool) if num == 0 else of_unit[units] == part
    if kind == "blocks" and gap:
        chosen &= ~_near_border(of_unit[units], gap)
    indices = np.flatnonzero(chosen)
    if not len(indices):
        raise ValueError(
            f"the part {part!r} of a split by {kind} of {num} images is empty: parts={parts}"
        )
    return indices


def _deal(
    num: int, part: str, kind: str, parts: Mapping[str, float], rng: np.random.Generator
) -> np.ndarray:
    """Return the name of the part of every unit ``(num,)``, None for no part."""
    values = list(parts.values())
    if any(value <= 0 for value in values):
        raise ValueError(f"the parts of a split must be positive, got {parts}")
    if all(isinstance(value, int) for value in values):
        if kind != "random":
            raise ValueError(f"a split by {kind} takes shares of the whole, got numbers: {parts}")
        if sum(values) > num:
            raise ValueError(f"the parts {parts} need {sum(values)} images, but there are {num}")
        ends = np.cumsum(values)
    else:
        if sum(values) > 1 + 1e-9:
            raise ValueError(f"the shares of a split add up to {sum(values):g} > 1: {parts}")
        ends = np.rint(np.cumsum(values) * num).astype(np.int64)
    order = np.argsort(rng.random(num), kind="stable")
    of_unit = np.full(num, None, object)
    start = 0
    for name, end in zip(parts, ends):
        of_unit[order[start:end]] = name
        start = end
    return of_unit


def _near_border(of_image: np.ndarray, gap: int) -> np.ndarray:
    """Whether an image is within `gap` images of a border between two parts."""
    borders = np.flatnonzero(of_image[1:] != of_image[:-1]) + 1
    near = np.zeros(len(of_image), bool)
    for border in borders:
        near[max(border - gap, 0) : border + gap] = True
    return near
