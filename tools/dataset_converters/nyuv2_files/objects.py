"""The objects of an image of NYUv2: boxes and masks from its labels and instances."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from ebm_mmdet.datasets.nyuv2.classes import CLASSES
from ebm_mmdet.datasets.nyuv2.samples import run_lengths

from .addresses import NYUv2Error, how_to_get
from .labeled import Scan

__all__ = ["Options", "annotate", "category_table"]


@dataclasses.dataclass(frozen=True)
class Options:
    """How boxes and depth are written.

    Attributes:
        box_convention: ``"inclusive"``: a box contains its last row and column of pixels, so that
            an object of one pixel has width 1. ``"ref"``: width and height are one less, as in
            vita-epfl/rock-pytorch.
        min_size: Objects with fewer rows or columns of pixels are left out.
        area: ``"box"``: width times height of the box; ``"mask"``: number of pixels.
        depth: ``"npy"``: float32, metres; ``"png"``: 16 bits, millimetres.
    """

    box_convention: str = "inclusive"
    min_size: int = 1
    area: str = "box"
    depth: str = "npy"

    def __post_init__(self) -> None:
        choices = {
            "box_convention": ("inclusive", "ref"),
            "area": ("box", "mask"),
            "depth": ("npy", "png"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise NYUv2Error(f"{name} is {getattr(self, name)!r}; expected one of {allowed}")
        if self.min_size < 1:
            raise NYUv2Error(f"min_size is {self.min_size}; expected at least 1 pixel")


def category_table(names: Sequence[str], path: str | Path = "names") -> np.ndarray:
    """Category of every label: ``(65536,)`` uint16, 1 to 19 for the kept classes, 0 for others.

    Args:
        names: Names of the labels 1, 2, ...
        path: The file that they are from, for messages.

    Raises:
        NYUv2Error: One of the 19 classes is not among the names.
    """
    labels = {name: label for label, name in enumerate(names, start=1)}
    missing = [name for name in CLASSES if name not in labels]
    if missing:
        raise NYUv2Error(
            f"{path}: {len(missing)} of the {len(CLASSES)} classes are not among its "
            f"{len(names)} names, the first is {missing[0]!r}; {how_to_get('labeled')}"
        )
    table = np.zeros(65536, np.uint16)
    for category, name in enumerate(CLASSES, start=1):
        table[labels[name]] = category
    return table


def annotate(scan: Scan, table: np.ndarray, options: Options) -> tuple[list[dict], int]:
    """The objects of an image.

    An object is all pixels with the same label, one of the 19 classes, and the same instance, which
    is not 0.

    Args:
        scan: The image.
        table: From `category_table`.
        options: How boxes are written.

    Returns:
        The annotations, ordered by category and instance, without ids; and the number of objects
        that are left out because they are too small.
    """
    category = table[scan.labels]
    category[scan.instances == 0] = 0
    keys = category * np.uint16(256) + np.where(category > 0, scan.instances, np.uint8(0))
    found, too_small = [], 0
    for key, place in enumerate(ndimage.find_objects(keys.astype(np.int32)), start=1):
        if place is None:
            continue
        (x, x_end), (y, y_end) = ((axis.start, axis.stop) for axis in place)
        width, height = x_end - x, y_end - y
        if min(width, height) < options.min_size:
            too_small += 1
            continue
        mask = keys == key
        if options.box_convention == "ref":
            width, height = width - 1, height - 1
        area = width * height if options.area == "box" else int(np.count_nonzero(mask[place]))
        found.append(
            {
                "category_id": key // 256,
                "bbox": [x, y, width, height],
                "area": area,
                "iscrowd": 0,
                "segmentation": run_lengths(mask.T),
            }
        )
    return found, too_small
