"""Furnished rooms of several scene types: which furniture, of which proportions, and where."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .arrangements import (
    furnish_bedside,
    lay_pillows,
    put_stand_beside,
    scatter_boxes,
    seat_around,
    set_up_desk,
)
from .furniture import CLUTTER, build
from .room import Room

__all__ = ["SCENE_TYPES", "draw_scene_type", "furnish"]


def _bedroom(rng: np.random.Generator, room: Room) -> None:
    wall = int(rng.integers(4))
    for _ in range(1 + int(rng.random() < 0.3)):
        bed = build("bed", rng)
        if room.at_wall(rng, bed, wall):
            furnish_bedside(rng, room, bed)
    if rng.random() < 0.6:
        room.at_wall(rng, build("cabinet", rng))
    if rng.random() < 0.35:
        desk = build("desk", rng)
        if room.at_wall(rng, desk):
            set_up_desk(rng, room, desk, int(rng.integers(0, 2)))
    if rng.random() < 0.4:
        room.at_wall(rng, build("chair", rng))
    if rng.random() < 0.3:
        room.at_wall(rng, build("bookshelf", rng))
    scatter_boxes(rng, room, int(rng.integers(0, 2)))


def _bookstore(rng: np.random.Generator, room: Room) -> None:
    for wall in rng.permutation(4)[: int(rng.integers(2, 4))]:
        for _ in range(int(rng.integers(2, 5))):
            room.at_wall(rng, build("bookshelf", rng), int(wall))
    yaw = rng.choice([0.0, math.pi / 2])
    for _ in range(int(rng.integers(1, 4))):  # shelves in the room, in rows
        x, y = rng.uniform(-0.3, 0.3, 2) * room.size[:2]
        room.stand(build("bookshelf", rng), x, y, yaw + math.pi * rng.integers(2), gap=0.6)
    for _ in range(int(rng.integers(0, 3))):
        table = build("table", rng, kind=rng.choice(["coffee", "dining"]))
        if room.anywhere(rng, table, gap=0.4):
            for x in (-0.3, 0.0, 0.3):
                if rng.random() < 0.7:
                    room.on_top(build("books", rng), table, x * table.size[0], rng.normal(0, 0.08))
    if rng.random() < 0.4:
        room.anywhere(rng, build("chair", rng))
    scatter_boxes(rng, room, int(rng.integers(0, 3)))


def _classroom(rng: np.random.Generator, room: Room) -> None:
    board = build("picture", rng, size=(rng.uniform(2.0, 3.2), rng.uniform(1.0, 1.3)))
    room.hang(rng, board, 0, rng.uniform(0.8, 1.0))
    front = build("desk", rng)
    x = rng.uniform(-0.25, 0.25) * room.size[0]
    if room.stand(front, x, room.size[1] / 2 - 1.0, math.pi) and rng.random() < 0.5:
        room.on_top(build("monitor", rng), front, 0.2, 0.0)
    columns, rows = int(rng.integers(2, 4)), int(rng.integers(2, 4))
    kind = "desk" if rng.random() < 0.4 else "table"
    seed = rng.integers(2**32)  # the desks of a classroom are of one make
    for row in range(rows):
        for column in range(columns):
            make = np.random.default_rng(seed)
            desk = build(kind, make) if kind == "desk" else build(kind, make, kind="dining")
            x = (column - (columns - 1) / 2) * (room.size[0] - 0.9) / columns
            y = room.size[1] / 2 - 2.4 - row * 1.45 + rng.normal(0, 0.05)
            # Pupils face the board.
            if room.stand(desk, x + rng.normal(0, 0.05), y, rng.normal(0, 0.04)):
                for side in (-0.25, 0.25) if desk.size[0] > 1.25 else (0.0,):
                    if rng.random() < 0.8:
                        spot = desk.point(side * desk.size[0], -desk.size[1] / 2 - 0.32)
                        chair = build("chair", rng, office=False)
                        room.stand(chair, *spot[:2], math.pi + rng.normal(0, 0.25), gap=0.0)
                if rng.random() < 0.25:
                    room.on_top(build("books", rng), desk, rng.normal(0, 0.2), 0.0)


def _conference_room(rng: np.random.Generator, room: Room) -> None:
    length = min(rng.uniform(2.2, 3.6), max(room.size) - 1.8)
    table = build("table", rng, kind="dining", length=length)
    yaw = 0.0 if room.size[0] > room.size[1] else math.pi / 2
    room.stand(table, *rng.normal(0, 0.15, 2), yaw + rng.normal(0, 0.03))
    seat_around(rng, room, table, 0.85)
    wall = 1 if yaw == 0.0 else 0
    if rng.random() < 0.6:
        low = build("cabinet", rng, low=True)
        if room.at_wall(rng, low, wall):
            room.on_top(build("monitor", rng, scale=1.7), low, 0, 0)
    else:
        room.hang(rng, build("picture", rng, size=(1.6, 1.1)), wall, 0.9)
    if rng.random() < 0.5:
        room.at_wall(rng, build("plant", rng))
    if rng.random() < 0.4:
        room.on_top(build("books", rng), table, rng.normal(0, 0.4), 0.0)


def _dining_room(rng: np.random.Generator, room: Room) -> None:
    table = build("table", rng, kind=rng.choice(["dining", "round"]))
    yaw = rng.choice([0.0, math.pi / 2]) + rng.normal(0, 0.1)
    room.stand(table, *(rng.uniform(-0.1, 0.1, 2) * room.size[:2]), yaw)
    seat_around(rng, room, table, 0.7)
    if rng.random() < 0.8:
        lamp = build("lamp", rng, kind="pendant")
        x, y, _ = table.position
        room.things.append(lamp.put(x, y, room.size[2] - lamp.size[2]))
    for _ in range(int(rng.integers(1, 3))):
        cabinet = build("cabinet", rng)
        if room.at_wall(rng, cabinet) and cabinet.size[2] < 1 and rng.random() < 0.7:
            room.on_top(build("lamp", rng, kind="table"), cabinet, rng.normal(0, 0.2), 0)
    if rng.random() < 0.5:
        room.at_wall(rng, build("plant", rng))
    if rng.random() < 0.3:
        room.at_wall(rng, build("chair", rng))


def _home_storage(rng: np.random.Generator, room: Room) -> None:
    for _ in range(int(rng.integers(1, 3))):
        shelf = build("bookshelf", rng, books=rng.random() < 0.5)
        room.at_wall(rng, shelf)
    scatter_boxes(rng, room, int(rng.integers(5, 10)))
    for name, share in (
        ("chair", 0.5),
        ("lamp", 0.4),
        ("night stand", 0.5),
        ("table", 0.3),
        ("cabinet", 0.3),
    ):
        if rng.random() < share:
            options = {"kind": "floor"} if name == "lamp" else {}
            thing = build(name, rng, **options)
            if room.anywhere(rng, thing) and name == "table":
                room.on_top(build("box", rng, scale=0.8), thing, 0, 0, rng.normal(0, 0.5))
    for _ in range(int(rng.integers(0, 3))):
        room.anywhere(rng, build("basket", rng))


def _living_room(rng: np.random.Generator, room: Room) -> None:
    wall = int(rng.integers(4))
    sofas = []
    for side in [wall] + [(wall + 1) % 4] * int(rng.random() < 0.6):
        sofa = build("sofa", rng)
        if room.at_wall(rng, sofa, side, gap=rng.uniform(0.03, 0.5)):
            sofas.append(sofa)
            number = int(rng.integers(0, 2 + (sofa.size[0] > 1.3)))
            lay_pillows(rng, room, sofa, sofa.size[1] / 2 - 0.24, number)
    if sofas and rng.random() < 0.8:
        table = build("table", rng, kind="coffee")
        x, y, _ = sofas[0].point(
            0, -sofas[0].size[1] / 2 - table.size[1] / 2 - rng.uniform(0.3, 0.5)
        )
        if room.stand(table, x, y, sofas[0].yaw + rng.normal(0, 0.08)) and rng.random() < 0.6:
            room.on_top(build("books", rng), table, rng.normal(0, 0.2), 0, rng.normal(0, 0.5))
    for sofa in sofas:
        if rng.random() < 0.6:
            put_stand_beside(rng, room, sofa, int(rng.choice([-1, 1])))
    low = build("cabinet", rng, low=True)
    if room.at_wall(rng, low, (wall + 2) % 4) and rng.random() < 0.8:
        room.on_top(build("monitor", rng, scale=1.6), low, 0, 0, rng.normal(0, 0.1))
    for _ in range(int(rng.integers(0, 3))):
        room.at_wall(rng, build("lamp", rng, kind="floor"))
    for name, share in (("bookshelf", 0.45), ("plant", 0.5), ("chair", 0.3)):
        if rng.random() < share:
            room.at_wall(rng, build(name, rng))


def _office(rng: np.random.Generator, room: Room) -> None:
    for _ in range(int(rng.integers(1, 4))):
        desk = build("desk", rng)
        turn = rng.random() < 0.25
        if turn:  # the desk faces the room
            placed = room.at_wall(rng, desk, gap=rng.uniform(0.8, 1.1))
        else:
            placed = room.at_wall(rng, desk)
        if placed:
            set_up_desk(rng, room, desk, int(rng.integers(1, 3)))
    for _ in range(int(rng.integers(0, 3))):
        room.at_wall(rng, build("bookshelf", rng))
    if rng.random() < 0.4:
        room.at_wall(rng, build("cabinet", rng))
    if rng.random() < 0.4:
        room.anywhere(rng, build("basket", rng))
    scatter_boxes(rng, room, int(rng.integers(0, 3)))


# The share among all rooms, the function that furnishes them, and the ranges of their width, depth
# and height in metres. Bedrooms and living rooms are the most frequent, as in NYUv2.
_LAYOUTS: dict[str, tuple[float, Callable, tuple, tuple]] = {
    "bedroom": (0.22, _bedroom, (2.9, 3.2, 2.3), (4.6, 4.4, 2.6)),
    "bookstore": (0.09, _bookstore, (4.0, 4.5, 2.6), (6.5, 7.5, 3.3)),
    "classroom": (0.09, _classroom, (5.0, 5.8, 2.7), (7.0, 7.5, 3.2)),
    "conference_room": (0.09, _conference_room, (3.6, 4.4, 2.5), (4.8, 6.5, 2.9)),
    "dining_room": (0.11, _dining_room, (3.2, 3.6, 2.4), (4.6, 5.0, 2.7)),
    "home_storage": (0.09, _home_storage, (2.4, 2.8, 2.2), (3.6, 4.0, 2.6)),
    "living_room": (0.2, _living_room, (3.6, 4.0, 2.4), (5.2, 5.6, 2.9)),
    "office": (0.11, _office, (2.8, 3.2, 2.4), (4.8, 5.0, 2.8)),
}

SCENE_TYPES = tuple(sorted(_LAYOUTS))
"""Names of the scene types, a subset of NYUv2's 27, in alphabetical order."""


def draw_scene_type(rng: np.random.Generator) -> str:
    """One of `SCENE_TYPES`, with the share that it has among all rooms."""
    shares = np.array([_LAYOUTS[name][0] for name in SCENE_TYPES])
    return SCENE_TYPES[int(rng.choice(len(shares), p=shares / shares.sum()))]


def furnish(rng: np.random.Generator, scene_type: str) -> Room:
    """Draw a room of a type, with furniture and with clutter that occurs in every type.

    Args:
        rng: source of randomness.
        scene_type: one of `SCENE_TYPES`.
    """
    _, layout, smallest, largest = _LAYOUTS[scene_type]
    room = Room(tuple(rng.uniform(smallest, largest).tolist()))
    if rng.random() < 0.25:
        room.at_wall(rng, build("column", rng), gap=-0.03)
    layout(rng, room)
    for _ in range(int(rng.integers(2, 6))):
        room.hang(rng, build("picture", rng), int(rng.integers(4)))
    if rng.random() < 0.7:  # a door
        room.hang(rng, build("picture", rng, size=(0.9, 2.0)), int(rng.integers(4)), 0.0)
    if rng.random() < 0.5:
        x, y = rng.uniform(-0.25, 0.25, 2) * room.size[:2]
        room.things.append(build("rug", rng).put(x, y, 0.0, rng.normal(0, 0.15)))
    for name in ("plant", "basket", "books", "box", "chair"):
        if rng.random() < 0.12:
            room.anywhere(rng, build(name, rng))
    for thing in list(room.things):  # something on what is low and flat
        if thing.label == CLUTTER and 0.4 < thing.size[2] < 0.9 and rng.random() < 0.15:
            room.on_top(build("plant", rng), thing, 0, 0)
    return room
