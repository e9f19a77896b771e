"""Things that stand together: pillows on a bed, chairs around a table, boxes in stacks."""

from __future__ import annotations

import math

import numpy as np

from .furniture import Furniture, build
from .room import Room
from .solids import rotation_about_x

__all__ = [
    "furnish_bedside",
    "lay_pillows",
    "put_stand_beside",
    "scatter_boxes",
    "seat_around",
    "set_up_desk",
]


def lay_pillows(rng: np.random.Generator, room: Room, support: Furniture, back: float, number: int):
    """Pillows in a row on a bed or sofa, lying or leaning at ``back``, a y of its frame."""
    span = 0.9 * support.size[0] / max(number, 1)
    for k in range(number):
        pillow = build("pillow", rng)
        lean = rng.uniform(0.05, 0.3) if rng.random() < 0.5 else rng.uniform(0.7, 1.2)
        _, length, height = pillow.size
        x = (k - (number - 1) / 2) * span + rng.normal(0, 0.04)
        reach = (length * math.cos(lean) + height * math.sin(lean)) / 2
        lift = length / 2 * math.sin(lean)
        room.on_top(pillow, support, x, back - reach, rng.normal(0, 0.15))
        pillow.position[2] += lift
        pillow.rotation = pillow.rotation @ rotation_about_x(lean)


def seat_around(rng: np.random.Generator, room: Room, table: Furniture, share: float) -> None:
    """Chairs around a table; each place is taken with probability ``share``."""
    width, depth, _ = table.size
    places = [(0.0, -depth / 2, math.pi), (0.0, depth / 2, 0.0)]
    number = max(1, int(width / 0.65))
    steps = (np.arange(number) - (number - 1) / 2) * (width / number)
    places = [(x, y, yaw) for _, y, yaw in places for x in steps]
    places += [(-width / 2, 0.0, math.pi / 2), (width / 2, 0.0, -math.pi / 2)]
    for x, y, yaw in places:
        if rng.random() > share:
            continue
        chair = build("chair", rng)
        out = rng.uniform(0.28, 0.45)
        dx, dy = -math.sin(yaw) * out, math.cos(yaw) * out
        px, py, _ = table.point(x + dx, y + dy)
        room.stand(chair, px, py, table.yaw + yaw + rng.normal(0, 0.2), gap=0.0)


def set_up_desk(rng: np.random.Generator, room: Room, desk: Furniture, monitors: int) -> None:
    """What is on a desk, and the chair before it."""
    width, depth, _ = desk.size
    spots = rng.permutation(np.linspace(-0.33, 0.33, 3)) * width
    for spot in spots[:monitors]:
        room.on_top(
            build("monitor", rng), desk, spot, rng.uniform(0.0, 0.12) * depth, rng.normal(0, 0.25)
        )
    for spot in spots[monitors:]:
        draw = rng.random()
        if draw < 0.3:
            room.on_top(build("lamp", rng, kind="table"), desk, spot, 0.2 * depth)
        elif draw < 0.6:
            room.on_top(build("books", rng), desk, spot, rng.uniform(-0.15, 0.2) * depth)
        elif draw < 0.7:
            room.on_top(build("box", rng, scale=0.6), desk, spot, 0.1 * depth, rng.normal(0, 0.4))
    if rng.random() < 0.85:
        x, y, _ = desk.point(rng.normal(0, 0.12), -depth / 2 - rng.uniform(0.3, 0.6))
        yaw = desk.yaw + math.pi + rng.normal(0, 0.5)
        room.stand(build("chair", rng), x, y, yaw, gap=0.0)


def scatter_boxes(rng: np.random.Generator, room: Room, number: int) -> None:
    """Boxes on the floor, some in stacks."""
    for _ in range(number):
        box = build("box", rng)
        if rng.random() < 0.5:
            placed = room.at_wall(rng, box, gap=rng.uniform(0.03, 0.3))
        else:
            placed = room.anywhere(rng, box)
        while placed and len(box.parts) == 1 and rng.random() < 0.4 and box.position[2] < 0.9:
            upper = build("box", rng, scale=0.85)
            box = room.on_top(upper, box, *rng.normal(0, 0.03, 2), rng.normal(0, 0.3))


def furnish_bedside(rng: np.random.Generator, room: Room, bed: Furniture) -> None:
    """Pillows on a bed, and night stands beside it."""
    lay_pillows(rng, room, bed, bed.size[1] / 2 - 0.1, int(rng.integers(1, 4)))
    for side in (-1, 1):
        if rng.random() < 0.85:
            put_stand_beside(rng, room, bed, side)


def put_stand_beside(rng: np.random.Generator, room: Room, other: Furniture, side: int) -> None:
    """A night stand beside a bed or sofa, on its left (-1) or right (1), and what is on it."""
    stand = build("night stand", rng)
    x = side * (other.size[0] / 2 + stand.size[0] / 2 + rng.uniform(0.06, 0.2))
    x, y, _ = other.point(x, other.size[1] / 2 - stand.size[1] / 2)
    if not room.stand(stand, x, y, other.yaw):
        return
    if rng.random() < 0.6:
        room.on_top(build("lamp", rng, kind="table"), stand, 0, 0.02)
    elif rng.random() < 0.5:
        room.on_top(build("books", rng), stand, 0, 0, rng.normal(0, 0.4))
