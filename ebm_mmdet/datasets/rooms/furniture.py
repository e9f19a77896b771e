"""Furniture of random proportions, as lists of convex solids.

A class is a shape and a size, never a colour. Some classes share their parts and differ in metric
size or in how the parts are joined: a box and a night stand, a table and a desk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..ray_casting import Convex
from .solids import block, column, cushion, rotation_about_x, slab

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


def _legs(width: float, depth: float, height: float, thick: float, inset: float = 0.0, taper=1.0):
    x, y = width / 2 - thick / 2 - inset, depth / 2 - thick / 2 - inset
    half = thick / 2
    return [
        block(
            (sx * x - half, sy * y - half, 0),
            (sx * x + half, sy * y + half, height),
            top=(taper, taper),
        )
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]


def _bed(rng: np.random.Generator):
    width, length = rng.choice([0.95, 1.4, 1.7]) * rng.uniform(0.95, 1.1), rng.uniform(1.95, 2.2)
    base, top = rng.uniform(0.22, 0.32), rng.uniform(0.45, 0.62)
    x, y = width / 2, length / 2
    back = rng.uniform(0.04, 0.1)
    parts = [
        block((-x, -y, 0.1), (x, y - back, base)),
        block((-x + 0.02, -y + 0.03, base), (x - 0.02, y - back, top), top=(0.96, 0.98)),
    ]
    height = top
    if rng.random() < 0.85:  # a headboard
        height = top + rng.uniform(0.2, 0.55)
        parts.append(block((-x - 0.02, y - back, 0), (x + 0.02, y, height)))
    if rng.random() < 0.35:  # a footboard
        parts.append(block((-x - 0.02, -y - 0.04, 0), (x + 0.02, -y, top + rng.uniform(0.0, 0.2))))
    else:
        parts += _legs(width, length - 0.1, 0.1, 0.08)
    if rng.random() < 0.6:  # a blanket that hangs over the sides
        share = rng.uniform(0.35, 0.65)
        parts.append(
            block((-x - 0.03, -y - 0.02, 0.2), (x + 0.03, -y + share * length, top + 0.03))
        )
    return (width + 0.06, length + 0.04, height), parts, top


def _bookshelf(rng: np.random.Generator, books: bool = True):
    width, depth, height = (
        rng.uniform(0.6, 1.3),
        rng.uniform(0.25, 0.4),
        rng.choice([rng.uniform(0.9, 1.3), rng.uniform(1.6, 2.2)]),
    )
    x, y, thick = width / 2, depth / 2, 0.025
    parts = [
        block((-x, -y, 0), (-x + thick, y, height)),
        block((x - thick, -y, 0), (x, y, height)),
        block((-x, y - 0.02, 0.05), (x, y, height)),
    ]
    number = max(2, round(height / rng.uniform(0.28, 0.45)))
    levels = np.linspace(0.06, height - thick, number + 1)
    parts += [block((-x, -y, z), (x, y, z + thick)) for z in levels]
    room = levels[1] - levels[0] - thick
    for z in levels[:-1] + thick:
        left = -x + thick
        for _ in range(int(rng.integers(1, 4))) if books else ():
            left += rng.exponential(0.06)
            span = rng.uniform(0.1, 0.4)
            right = min(left + span, x - thick)
            if right - left < 0.05:
                break
            front = -y + rng.uniform(0.01, 0.1)
            parts.append(
                block((left, front, z), (right, y - 0.02, z + room * rng.uniform(0.45, 0.92)))
            )
            left = right
    return (width, depth, height), parts


def _box(rng: np.random.Generator, scale: float = 1.0):
    width, depth, height = scale * rng.uniform((0.25, 0.22, 0.16), (0.62, 0.45, 0.46))
    x, y = width / 2, depth / 2
    if rng.random() < 0.65:
        taper = rng.uniform(0.94, 1.06)
        return (width, depth, height), [block((-x, -y, 0), (x, y, height), top=(taper, taper))]
    t = 0.012  # open, with flaps
    parts = [
        block((-x, -y, 0), (x, -y + t, height)),
        block((-x, y - t, 0), (x, y, height)),
        block((-x, -y, 0), (-x + t, y, height)),
        block((x - t, -y, 0), (x, y, height)),
        block((-x, -y, 0), (x, y, 0.05 * height)),
    ]
    for side in (-1, 1):
        if rng.random() < 0.7:
            flap = slab((0, 0, depth / 4), (width, t, depth / 2))
            lean = rotation_about_x(-side * rng.uniform(0.4, 1.7))
            parts.append(flap.moved(lean, (0, side * (y - t / 2), height)))
    return (width, depth, height), parts


def _chair(rng: np.random.Generator, office: bool | None = None):
    office = rng.random() < 0.35 if office is None else office
    width, depth = rng.uniform(0.4, 0.52), rng.uniform(0.4, 0.52)
    seat, height = rng.uniform(0.42, 0.5), rng.uniform(0.78, 1.02)
    x, y, thick = width / 2, depth / 2, rng.uniform(0.03, 0.09)
    parts = [block((-x, -y, seat - thick), (x, y, seat), top=(0.97, 0.97))]
    lean, back = rng.uniform(0.02, 0.14), rng.uniform(0.025, 0.07)
    start = seat + (rng.uniform(0.1, 0.2) if rng.random() < 0.5 else 0.0)
    parts.append(
        block(
            (-x * 0.95, y - back, start),
            (x * 0.95, y, height),
            top=(rng.uniform(0.8, 1), 1),
            lean=lean,
        )
    )
    if start > seat:  # posts carry the back
        parts += [
            block(
                (s * x * 0.75 - 0.02, y - 0.04, seat - thick),
                (s * x * 0.75 + 0.02, y, start + 0.05),
            )
            for s in (-1, 1)
        ]
    if office:
        parts.append(column((0, 0), 0.08, seat - thick, (0.035, 0.035), 6))
        turn = rng.uniform(0, math.pi)
        for k in range(3):  # three beams are a star of six feet
            beam = block((-0.29, -0.025, 0.02), (0.29, 0.025, 0.1), top=(0.6, 1.0))
            parts.append(beam.placed(turn + k * math.pi / 3, (0, 0, 0)))
    else:
        parts += _legs(width, depth, seat - thick, rng.uniform(0.03, 0.055), 0.01)
    if rng.random() < 0.4:  # arms
        level = seat + rng.uniform(0.17, 0.25)
        for s in (-1, 1):
            parts.append(
                block((s * x - 0.025, -y + 0.05, level), (s * x + 0.025, y, level + 0.035))
            )
            parts.append(
                block((s * x - 0.02, -y + 0.08, seat - 0.02), (s * x + 0.02, -y + 0.12, level))
            )
    return (width + 0.05, depth, height), parts, seat


def _desk(rng: np.random.Generator):
    width, depth, height = rng.uniform(1.0, 1.7), rng.uniform(0.55, 0.8), rng.uniform(0.7, 0.78)
    x, y, thick = width / 2, depth / 2, rng.uniform(0.025, 0.05)
    parts = [block((-x, -y, height - thick), (x, y, height))]
    below = height - thick
    parts.append(block((-x + 0.03, y - 0.05, rng.uniform(0.1, 0.4)), (x - 0.03, y - 0.03, below)))
    sides = rng.permutation([-1, 1])
    drawers = rng.uniform(0.32, 0.45)
    for number, s in enumerate(sides):
        low, high = sorted((s * (x - 0.02), s * (x - 0.02 - drawers)))
        if number == 0 or rng.random() < 0.25:  # a pedestal with fronts of drawers
            parts.append(block((low, -y + 0.04, 0.03), (high, y - 0.04, below)))
            for k in range(3):
                z = 0.06 + k * (below - 0.06) / 3
                parts.append(
                    block(
                        (low + 0.02, -y + 0.02, z), (high - 0.02, -y + 0.04, z + below / 3 - 0.04)
                    )
                )
        else:
            low, high = sorted((s * (x - 0.02), s * (x - 0.06)))
            parts.append(block((low, -y + 0.03, 0), (high, y - 0.03, below)))
    return (width, depth, height), parts


def _lamp(rng: np.random.Generator, kind: str | None = None):
    kind = kind or rng.choice(["floor", "table"])
    radius = rng.uniform(0.17, 0.28) if kind != "table" else rng.uniform(0.1, 0.18)
    taper = rng.uniform(0.45, 1.0)
    tall = radius * rng.uniform(0.9, 1.5)
    sides = int(rng.choice([4, 8, 10]))
    if kind == "pendant":  # hangs; z = 0 is its lowest point
        cord = rng.uniform(0.4, 0.8)
        parts = [
            column((0, 0), 0, tall, (radius, radius * taper), sides),
            column((0, 0), tall, tall + cord, (0.012, 0.012), 4),
        ]
        return (2 * radius, 2 * radius, tall + cord), parts
    height = rng.uniform(1.35, 1.8) if kind == "floor" else rng.uniform(0.38, 0.65)
    foot = radius * rng.uniform(0.5, 0.75)
    thin = 0.02 if kind == "floor" else rng.uniform(0.018, 0.06)
    parts = [
        column((0, 0), 0, rng.uniform(0.02, 0.05), (foot, foot * 0.85), 8),
        column((0, 0), 0.02, height - tall * 0.6, (thin, thin * 0.7), 6),
        column((0, 0), height - tall, height, (radius, radius * taper), sides),
    ]
    return (2 * radius, 2 * radius, height), parts


def _monitor(rng: np.random.Generator, scale: float = 1.0):
    width = scale * rng.uniform(0.4, 0.65)
    tall, gap = width * rng.uniform(0.55, 0.75), rng.uniform(0.06, 0.14)
    tilt = rotation_about_x(rng.uniform(-0.2, 0.05))
    x = width / 2
    solids = [block((-x, -0.02, 0), (x, 0.02, tall))]
    depth = 0.22
    if rng.random() < 0.3:  # with a tube
        solids.append(loft_back(x * 0.95, tall, rng.uniform(0.2, 0.36)))
        depth = 0.44
    parts = [solid.moved(tilt, (0, -0.04, gap)) for solid in solids]
    parts.append(block((-0.04, -0.03, 0), (0.04, 0.05, gap + tall * 0.3), top=(0.8, 0.6)))
    parts.append(column((0, 0), 0, 0.025, (0.13 * scale**0.5, 0.12 * scale**0.5), 8))
    return (width, depth, tall + gap), parts


def loft_back(half_width: float, tall: float, deep: float) -> Convex:
    """The back of a monitor with a tube: a frustum from the screen towards +y."""
    frustum = block((-half_width, -tall / 2, 0), (half_width, tall / 2, deep), top=(0.55, 0.5))
    # z becomes y, and y becomes -z, which is about the middle of the screen.
    return frustum.moved(rotation_about_x(-math.pi / 2), (0, 0.02, tall / 2))


def _night_stand(rng: np.random.Generator):
    width, depth, height = rng.uniform((0.38, 0.34, 0.45), (0.58, 0.46, 0.68))
    x, y = width / 2, depth / 2
    legs = rng.uniform(0.08, 0.2)
    parts = [
        *_legs(width, depth, legs, 0.045, 0.02),
        block((-x + 0.015, -y + 0.03, legs), (x - 0.015, y, height - 0.025)),
        block((-x, -y, height - 0.025), (x, y, height)),
    ]
    number = int(rng.integers(1, 4))
    tall = (height - 0.03 - legs) / number
    for k in range(number):
        z = legs + k * tall
        parts.append(
            block((-x + 0.03, -y + 0.01, z + 0.015), (x - 0.03, -y + 0.03, z + tall - 0.015))
        )
        parts.append(slab((0, -y - 0.005, z + tall / 2), (0.1, 0.03, 0.02)))
    return (width, depth, height), parts


def _pillow(rng: np.random.Generator):
    width, length = rng.uniform(0.42, 0.7), rng.uniform(0.36, 0.5)
    height = rng.uniform(0.13, 0.22)
    return (width, length, height), [cushion(width, length, height)]


def _sofa(rng: np.random.Generator):
    width, depth = (
        rng.choice([rng.uniform(0.85, 1.1), rng.uniform(1.4, 2.3)]),
        rng.uniform(0.8, 1.0),
    )
    seat, height = rng.uniform(0.38, 0.46), rng.uniform(0.72, 0.95)
    x, y = width / 2, depth / 2
    feet = rng.uniform(0.03, 0.12)
    back = rng.uniform(0.18, 0.26)
    arm = rng.uniform(0.12, 0.24)
    parts = [
        block((-x, -y, feet), (x, y, seat - 0.13)),
        block((-x, y - back, feet), (x, y, height), top=(1.0, rng.uniform(0.6, 0.9)), lean=0.03),
    ]
    for s in (-1, 1):
        low, high = sorted((s * x, s * (x - arm)))
        parts.append(block((low, -y, feet), (high, y, seat + rng.uniform(0.12, 0.25))))
    number = max(1, round((width - 2 * arm) / 0.65))
    step = (width - 2 * arm) / number
    for k in range(number):
        left = -x + arm + k * step
        parts.append(
            block(
                (left + 0.01, -y - 0.02, seat - 0.13),
                (left + step - 0.01, y - back, seat),
                top=(0.95, 0.97),
            )
        )
    parts += _legs(width, depth, feet, 0.06, 0.04)
    return (width, depth + 0.02, height), parts, seat


def _table(rng: np.random.Generator, kind: str | None = None, length: float | None = None):
    kind = kind or rng.choice(["dining", "coffee", "round"])
    if kind == "coffee":
        width, depth, height = rng.uniform((0.7, 0.45, 0.36), (1.3, 0.7, 0.48))
    else:
        width, depth, height = rng.uniform((1.1, 0.75, 0.7), (1.7, 1.0, 0.78))
    if kind == "round":
        depth = width = rng.uniform(0.9, 1.3)
    width = length or width
    x, y, thick = width / 2, depth / 2, rng.uniform(0.025, 0.06)
    below = height - thick
    if kind == "round":
        parts = [
            column((0, 0), below, height, (x, x), 12),
            column((0, 0), 0.03, below, (0.06, 0.05), 8),
            column((0, 0), 0, 0.05, (0.3, 0.25), 8),
        ]
        return (width, depth, height), parts
    parts = [block((-x, -y, below), (x, y, height))]
    if kind == "dining" and rng.random() < 0.25:  # two trestles
        for s in (-1, 1):
            parts.append(
                block((s * x * 0.65 - 0.04, -y * 0.8, 0), (s * x * 0.65 + 0.04, y * 0.8, 0.06))
            )
            parts.append(
                block((s * x * 0.65 - 0.04, -0.06, 0.06), (s * x * 0.65 + 0.04, 0.06, below))
            )
    else:
        parts += _legs(width, depth, below, rng.uniform(0.04, 0.08), rng.uniform(0, 0.08))
        if rng.random() < 0.5:  # an apron
            inset = 0.06
            parts.append(
                block((-x + inset, -y + inset, below - 0.08), (x - inset, y - inset, below))
            )
    return (width, depth, height), parts


# What follows is not annotated.


def _basket(rng: np.random.Generator):
    radius, height = rng.uniform(0.12, 0.22), rng.uniform(0.22, 0.5)
    return (2 * radius, 2 * radius, height), [
        column((0, 0), 0, height, (radius * rng.uniform(0.7, 1.0), radius), 8)
    ]


def _books(rng: np.random.Generator):
    parts, level = [], 0.0
    for _ in range(int(rng.integers(1, 5))):
        tall = rng.uniform(0.015, 0.05)
        book = slab(
            (0, 0, level + tall / 2), (rng.uniform(0.14, 0.22), rng.uniform(0.2, 0.28), tall)
        )
        parts.append(book.placed(rng.normal(0, 0.2), (0, 0, 0)))
        level += tall
    return (0.25, 0.3, level), parts


def _cabinet(rng: np.random.Generator, low: bool | None = None):
    low = rng.random() < 0.4 if low is None else low
    width, depth = rng.uniform(0.8, 1.5), rng.uniform(0.4, 0.6)
    height = rng.uniform(0.5, 0.85) if low else rng.uniform(1.7, 2.2)
    x, y = width / 2, depth / 2
    doors = int(rng.integers(2, 4))
    parts = [block((-x, -y + 0.02, 0.0), (x, y, height))]
    for k in range(doors):
        left = -x + k * width / doors
        parts.append(
            block((left + 0.01, -y, 0.06), (left + width / doors - 0.01, -y + 0.02, height - 0.02))
        )
    return (width, depth, height), parts


def _column(rng: np.random.Generator):
    width = rng.uniform(0.25, 0.5)
    return (width, width, 4.0), [block((-width / 2, -width / 2, 0), (width / 2, width / 2, 4.0))]


def _picture(rng: np.random.Generator, size: tuple[float, float] | None = None):
    """A flat thing on a wall, at its own z = 0: a picture, a window, a door, a board."""
    width, height = size or rng.uniform((0.3, 0.3), (1.4, 1.1))
    frame = rng.uniform(0.02, 0.08)
    parts = [block((-width / 2, -0.01, 0), (width / 2, 0.02, height))]
    parts.append(
        block((-width / 2 + frame, -0.014, frame), (width / 2 - frame, 0.02, height - frame))
    )
    for _ in range(int(rng.integers(0, 3))):  # what is on the picture is as flat as the picture
        w, h = rng.uniform(0.15, 0.5) * width, rng.uniform(0.15, 0.6) * height
        left = rng.uniform(-width / 2 + frame, width / 2 - frame - w)
        low = rng.uniform(frame, max(height - frame - h, frame + 1e-3))
        top = rng.uniform(0.3, 1.0)
        parts.append(block((left, -0.018, low), (left + w, 0.02, low + h), top=(top, 1.0)))
    return (width, 0.04, height), parts


def _plant(rng: np.random.Generator):
    radius, pot = rng.uniform(0.1, 0.2), rng.uniform(0.15, 0.35)
    parts = [column((0, 0), 0, pot, (radius * 0.75, radius), 8)]
    for _ in range(int(rng.integers(2, 5))):
        points = rng.standard_normal((12, 3))
        points *= rng.uniform(0.12, 0.28, 3) / np.linalg.norm(points, axis=1, keepdims=True)
        points += (*rng.uniform(-0.12, 0.12, 2), pot + rng.uniform(0.15, 0.6))
        parts.append(Convex.hull(points))
    return (0.5, 0.5, pot + 0.7), parts


def _rug(rng: np.random.Generator):
    width, depth = rng.uniform((1.2, 0.9), (2.6, 1.8))
    parts = [block((-width / 2, -depth / 2, 0), (width / 2, depth / 2, 0.012))]
    for _ in range(int(rng.integers(0, 3))):
        w, d = rng.uniform(0.3, 0.8, 2) * (width, depth)
        parts.append(block((-w / 2, -d / 2, 0), (w / 2, d / 2, rng.uniform(0.013, 0.017))))
    return (width, depth, 0.0), parts


_BUILDERS: dict[str, Callable] = {
    "bed": _bed,
    "bookshelf": _bookshelf,
    "box": _box,
    "chair": _chair,
    "desk": _desk,
    "lamp": _lamp,
    "monitor": _monitor,
    "night stand": _night_stand,
    "pillow": _pillow,
    "sofa": _sofa,
    "table": _table,
    "basket": _basket,
    "books": _books,
    "cabinet": _cabinet,
    "column": _column,
    "picture": _picture,
    "plant": _plant,
    "rug": _rug,
}
