"""What is in rooms and not annotated; see `furniture`."""

from __future__ import annotations

import numpy as np

from .solids import block, column, cushion, slab

__all__ = ["CLUTTER_BUILDERS"]


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
    for _ in range(int(rng.integers(3, 6))):
        size, level = rng.uniform(0.12, 0.3), pot + rng.uniform(0.02, 0.45)
        leaf = cushion(2 * size, rng.uniform(1, 2) * size, rng.uniform(0.8, 1.6) * size)
        parts.append(leaf.placed(rng.uniform(0, 3), (*rng.uniform(-0.12, 0.12, 2), level)))
    return (0.5, 0.5, pot + 0.7), parts


def _rug(rng: np.random.Generator):
    width, depth = rng.uniform((1.2, 0.9), (2.6, 1.8))
    parts = [block((-width / 2, -depth / 2, 0), (width / 2, depth / 2, 0.012))]
    for _ in range(int(rng.integers(0, 3))):
        w, d = rng.uniform(0.3, 0.8, 2) * (width, depth)
        parts.append(block((-w / 2, -d / 2, 0), (w / 2, d / 2, rng.uniform(0.013, 0.017))))
    return (width, depth, 0.0), parts


CLUTTER_BUILDERS = {
    "basket": _basket,
    "books": _books,
    "cabinet": _cabinet,
    "column": _column,
    "picture": _picture,
    "plant": _plant,
    "rug": _rug,
}
