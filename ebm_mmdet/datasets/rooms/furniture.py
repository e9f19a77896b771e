"""Furniture of random proportions, as lists of convex solids.

A class is a shape and a size, never a colour. Some classes share their parts and differ in metric
size or in how the parts are joined: a box and a night stand, a table and a desk.

A builder (`soft_furniture`, `hard_furniture`, `clutter`) is a function of a source of randomness,
and of options of its own, that gives the size (width, depth, height), the parts, and, if things are
not put on the top, the height on which they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ..ray_casting import Convex
from .clutter import CLUTTER_BUILDERS
from .hard_furniture import HARD_FURNITURE
from .soft_furniture import SOFT_FURNITURE

__all__ = ["CLASSES", "CLUTTER", "Furniture", "build"]

CLASSES = (
    "bed",
    "bookshelf",
    "box",
    "chair",
    "desk",
    "lamp",
    "monitor",
    "night stand",
    "pillow",
    "sofa",
    "table",
)
"""A subset of NYUv2's 19 classes, with its names, in alphabetical order."""

CLUTTER = -1
"""The label of what is not annotated."""

_BUILDERS = {**SOFT_FURNITURE, **HARD_FURNITURE, **CLUTTER_BUILDERS}


@dataclass
class Furniture:
    """An object in its own frame: x to its right, y to its back, z up; it stands on z = 0.

    Attributes:
        label: index into `CLASSES`, or `CLUTTER`.
        parts: convex solids.
        size: width, depth and height (x, y, z) in metres. The footprint is centred.
        surface: height on which other things can be put.
        rotation: (3, 3) from the object's frame to the room's.
        position: (3,) of the origin of the object's frame in the room.
    """

    label: int
    parts: list[Convex]
    size: tuple[float, float, float]
    surface: float | None = None
    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    position: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def __post_init__(self) -> None:
        if self.surface is None:
            self.surface = self.size[2]

    def put(self, x: float, y: float, z: float = 0.0, yaw: float = 0.0) -> Furniture:
        """Place the object: ``yaw`` in radians from x to y. Returns itself."""
        cos, sin = math.cos(yaw), math.sin(yaw)
        self.rotation = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        self.position = np.array([x, y, z], float)
        return self

    def point(self, x: float, y: float, z: float = 0.0) -> np.ndarray:
        """The point (3,) in the room's frame of a point in the object's frame."""
        return self.rotation @ (x, y, z) + self.position

    @property
    def yaw(self) -> float:
        """Heading in radians, of the object's x axis."""
        return math.atan2(self.rotation[1, 0], self.rotation[0, 0])


def build(name: str, rng: np.random.Generator, **options) -> Furniture:
    """Draw an object.

    Args:
        name: one of `CLASSES`, or of the clutter: ``basket``, ``books``, ``cabinet``, ``column``,
            ``plant``, ``picture``, ``rug``.
        rng: source of randomness.
        **options: of the function that builds it, where a layout asks for a variant.
    """
    size, parts, *surface = _BUILDERS[name](rng, **options)
    label = CLASSES.index(name) if name in CLASSES else CLUTTER
    return Furniture(label, parts, tuple(float(v) for v in size), *surface)
