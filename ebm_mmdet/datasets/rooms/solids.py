"""Convex solids with known planes, which furniture is made of.

Frame of an object: x to its right, y to its back, z up, its front towards -y, metres.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from ..ray_casting import Convex

__all__ = ["block", "column", "cushion", "loft", "rotation_about_x", "slab"]


def loft(*rings: np.ndarray) -> Convex:
    """The convex solid between parallel rings that lie above one another.

    Args:
        rings: two or more (n, 3), each at one height, ascending, counter-clockwise seen from above.
            The sides must be planar, which they are if the edges of one ring are parallel to those
            of the next; and the solid convex.
    """
    normals, points = [np.array([[0.0, 0, -1], [0, 0, 1]])], [np.stack([rings[0][0], rings[-1][0]])]
    for low, high in itertools.pairwise(rings):
        edge = np.roll(low, -1, axis=0) - low
        long = np.abs(edge).sum(1) > 1e-9
        # The edge of a ring that has shrunk to a line gives no direction; that of the other does.
        edge = np.where(long[:, None], edge, np.roll(high, -1, axis=0) - high)
        side = np.cross(edge, high - low)
        normals.append(side / np.linalg.norm(side, axis=1, keepdims=True))
        points.append(low)
    planes = np.concatenate(normals)
    return Convex(
        np.concatenate(rings), planes, np.einsum("ij,ij->i", planes, np.concatenate(points))
    )


def _rectangle(x: float, y: float, half_x: float, half_y: float, z: float) -> np.ndarray:
    return np.array(
        [
            (x - half_x, y - half_y, z),
            (x + half_x, y - half_y, z),
            (x + half_x, y + half_y, z),
            (x - half_x, y + half_y, z),
        ]
    )


def block(
    low: Sequence[float],
    high: Sequence[float],
    top: tuple[float, float] = (1.0, 1.0),
    lean: float = 0.0,
) -> Convex:
    """A box, or a frustum of one.

    Args:
        low: the smallest x, y, z of the box.
        high: the largest.
        top: length of the upper face in x and y as a fraction of the lower one's, in (0, ...).
        lean: metres by which the upper face is moved towards +y.
    """
    x, y = (low[0] + high[0]) / 2, (low[1] + high[1]) / 2
    half_x, half_y = (high[0] - low[0]) / 2, (high[1] - low[1]) / 2
    return loft(
        _rectangle(x, y, half_x, half_y, low[2]),
        _rectangle(x, y + lean, half_x * top[0], half_y * top[1], high[2]),
    )


def slab(centre: Sequence[float], size: Sequence[float]) -> Convex:
    """A box of ``size`` (3,) around ``centre`` (3,)."""
    return block(
        [c - s / 2 for c, s in zip(centre, size)], [c + s / 2 for c, s in zip(centre, size)]
    )


def column(
    centre: tuple[float, float],
    bottom: float,
    top: float,
    radii: tuple[float, float],
    sides: int = 8,
    stretch: float = 1.0,
) -> Convex:
    """An upright prism, or a frustum of one.

    Args:
        centre: x and y of the axis.
        bottom: z of the lower end.
        top: z of the upper end.
        radii: of the lower and the upper end.
        sides: number of sides.
        stretch: factor along y.
    """
    angle = np.arange(sides) * (2 * math.pi / sides) + math.pi / sides
    ring = np.stack([np.cos(angle), stretch * np.sin(angle), np.zeros(sides)], axis=1)
    return loft(*(ring * r + (*centre, z) for r, z in zip(radii, (bottom, top))))


def cushion(width: float, length: float, height: float) -> Convex:
    """A pillow that lies on z = 0 around the z axis: thick in the middle, thin at its edges."""
    rings = [
        _rectangle(0.0, 0.0, share * width / 2, share * length / 2, z * height)
        for share, z in ((0.62, 0.0), (1.0, 0.45), (0.62, 1.0))
    ]
    return loft(*rings)


def rotation_about_x(angle: float) -> np.ndarray:
    """The matrix (3, 3) that turns y towards z by ``angle`` radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[1.0, 0, 0], [0, cos, -sin], [0, sin, cos]])
