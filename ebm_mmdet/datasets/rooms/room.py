"""A room, and the ways of putting things in it so that they do not touch.

Frame of a room: z up, the floor at z = 0, the origin in the middle of the floor, metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ..footprints import overlap, rectangle
from .furniture import CLUTTER, Furniture
from .solids import block

__all__ = ["Room"]

_TRIES = 12
_GAP = 0.04  # free metres around every object on the floor


@dataclass
class Room:
    """A rectangular room and what is in it.

    Attributes:
        size: extent along x, y and z, metres.
        things: everything in the room, in no particular order.
        footprints: (4, 2) corners of what stands on the floor.
    """

    size: tuple[float, float, float]
    things: list[Furniture] = field(default_factory=list)
    footprints: list[np.ndarray] = field(default_factory=list)

    def shell(self) -> Furniture:
        """The inside of the walls, as one thing; the room is its only part."""
        x, y, z = self.size
        return Furniture(CLUTTER, [block((-x / 2, -y / 2, 0), (x / 2, y / 2, z))], self.size)

    def free(self, corners: np.ndarray) -> bool:
        """Whether a rectangle (4, 2) is in the room and touches no footprint."""
        if (np.abs(corners) > np.array(self.size[:2]) / 2 + 1e-6).any():
            return False
        centre = corners[0] + corners[2]  # twice that
        reach = np.abs(corners[0] - corners[2]).sum()  # at least the diagonal
        for other in self.footprints:
            apart = np.abs(centre - other[0] - other[2]).max()
            far = apart > reach + np.abs(other[0] - other[2]).sum()
            if not far and overlap(corners, other):
                return False
        return True

    def stand(self, thing: Furniture, x: float, y: float, yaw: float, gap: float = _GAP) -> bool:
        """Put a thing on the floor if there is room for it."""
        width, depth, _ = thing.size
        if not self.free(rectangle(x, y, yaw, width + gap, depth + gap)):
            return False
        self.footprints.append(rectangle(x, y, yaw, width, depth))
        self.things.append(thing.put(x, y, 0.0, yaw))
        return True

    def at_wall(
        self, rng: np.random.Generator, thing: Furniture, wall: int | None = None, gap: float = 0.03
    ) -> bool:
        """Put a thing on the floor with its back to a wall, 0 to 3, that is drawn if not given."""
        for _ in range(_TRIES):
            side = int(rng.integers(4)) if wall is None else wall
            along, across = (self.size[0], self.size[1]) if side % 2 == 0 else self.size[1::-1]
            free = along - thing.size[0] - 2 * _GAP
            if free < 0:
                continue
            offset = rng.uniform(-free, free) / 2
            distance = across / 2 - thing.size[1] / 2 - gap - 0.03
            x, y, yaw = _turned(side, offset, distance)
            if self.stand(thing, x, y, yaw + rng.normal(0, 0.01)):
                return True
        return False

    def anywhere(self, rng: np.random.Generator, thing: Furniture, gap: float = 0.1) -> bool:
        """Put a thing somewhere on the floor, in any direction."""
        for _ in range(_TRIES):
            x, y = rng.uniform(-0.5, 0.5, 2) * (np.array(self.size[:2]) - 0.4)
            if self.stand(thing, x, y, rng.uniform(-math.pi, math.pi), gap):
                return True
        return False

    def on_top(
        self, thing: Furniture, support: Furniture, x: float, y: float, yaw: float = 0.0
    ) -> Furniture:
        """Put a thing on another, at (x, y) of the other's frame."""
        self.things.append(
            thing.put(*support.point(x, y, support.surface + 1e-3), support.yaw + yaw)
        )
        return thing

    def hang(
        self, rng: np.random.Generator, thing: Furniture, wall: int, level: float | None = None
    ) -> None:
        """Hang a flat thing on a wall."""
        along, across = (self.size[0], self.size[1]) if wall % 2 == 0 else self.size[1::-1]
        free = max(along - thing.size[0], 0.0)
        top = max(self.size[2] - thing.size[2] - 0.1, 0.0)
        level = rng.uniform(min(0.9, top), top) if level is None else min(level, top)
        x, y, yaw = _turned(wall, rng.uniform(-free, free) / 2, across / 2 - 0.02)
        self.things.append(thing.put(x, y, level, yaw))


def _turned(side: int, offset: float, distance: float) -> tuple[float, float, float]:
    """Position and yaw of a thing with its back to wall ``side``."""
    yaw = side * math.pi / 2
    cos, sin = round(math.cos(yaw)), round(math.sin(yaw))
    return cos * offset - sin * distance, sin * offset + cos * distance, yaw
