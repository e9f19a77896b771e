"""What things are put on or in, and what is put on it: see `furniture`."""

from __future__ import annotations

import math

import numpy as np

from ..ray_casting import Convex
from .solids import block, column, legs, rotation_about_x, slab

__all__ = ["HARD_FURNITURE"]


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
        solids.append(_tube(x * 0.95, tall, rng.uniform(0.2, 0.36)))
        depth = 0.44
    parts = [solid.moved(tilt, (0, -0.04, gap)) for solid in solids]
    parts.append(block((-0.04, -0.03, 0), (0.04, 0.05, gap + tall * 0.3), top=(0.8, 0.6)))
    parts.append(column((0, 0), 0, 0.025, (0.13 * scale**0.5, 0.12 * scale**0.5), 8))
    return (width, depth, tall + gap), parts


def _tube(half_width: float, tall: float, deep: float) -> Convex:
    """The back of a monitor with a tube: a frustum from the screen towards +y."""
    frustum = block((-half_width, -tall / 2, 0), (half_width, tall / 2, deep), top=(0.55, 0.5))
    # z becomes y, and y becomes -z, which is about the middle of the screen.
    return frustum.moved(rotation_about_x(-math.pi / 2), (0, 0.02, tall / 2))


def _night_stand(rng: np.random.Generator):
    width, depth, height = rng.uniform((0.38, 0.34, 0.45), (0.58, 0.46, 0.68))
    x, y = width / 2, depth / 2
    feet = rng.uniform(0.08, 0.2)
    parts = [
        *legs(width, depth, feet, 0.045, 0.02),
        block((-x + 0.015, -y + 0.03, feet), (x - 0.015, y, height - 0.025)),
        block((-x, -y, height - 0.025), (x, y, height)),
    ]
    number = int(rng.integers(1, 4))
    tall = (height - 0.03 - feet) / number
    for k in range(number):
        z = feet + k * tall
        parts.append(
            block((-x + 0.03, -y + 0.01, z + 0.015), (x - 0.03, -y + 0.03, z + tall - 0.015))
        )
        parts.append(slab((0, -y - 0.005, z + tall / 2), (0.1, 0.03, 0.02)))
    return (width, depth, height), parts


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
        parts += legs(width, depth, below, rng.uniform(0.04, 0.08), rng.uniform(0, 0.08))
        if rng.random() < 0.5:  # an apron
            inset = 0.06
            parts.append(
                block((-x + inset, -y + inset, below - 0.08), (x - inset, y - inset, below))
            )
    return (width, depth, height), parts


HARD_FURNITURE = {
    "bookshelf": _bookshelf,
    "box": _box,
    "desk": _desk,
    "lamp": _lamp,
    "monitor": _monitor,
    "night stand": _night_stand,
    "table": _table,
}
