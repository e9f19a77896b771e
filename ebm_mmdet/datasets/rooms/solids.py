"""Convex solids with known planes, which furniture is made of.

Frame of an object: x to its right, y to its back, z up, its front towards -y, metres.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from ..ray_casting import Convex

__all__ = ["block", "column", "cushion", "legs", "loft", "rotation_about_x", "slab"]


def loft(*rings: np.ndarray) -> Convex:
    """The convex solid between parallel rings that lie above one another.

    Args:
        rings: two or more (n, 3), each at one height, ascending, counter-clockwise seen from above.
            The sides must be planar, which they are if the edges of one ring are parallel to those
            of the next; and the solid convex.
    """
    normals, points = [np.array([[0.0, 0, -1], [0, 0, 1]])], [np.stack([rings[0][0], rings[-1][0]])]
    for low, high in itertools.pairwise(rings):
        after = np.arange(1, len(low) + 1) % len(low)
        edge = low[after] - low
        # A ring that has shrunk to a point has no edges; the other ring's have the same direction.
        edge = np.where(np.abs(edge).sum(1, keepdims=True) > 1e-9, edge, high[after] - high)
        (ax, ay, az), (bx, by, bz) = edge.T, (high - low).T
        side = np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=1)
        normals.append(side / np.sqrt(np.einsum("ij,ij->i", side, side))[:, None])
        points.append(low)
    planes = np.concatenate(normals)
    return Convex(
        np.concatenate(rings), planes, np.einsum("ij,ij->i", planes, np.concatenate(points))
    )


# The outward normals of a box's faces: bottom, top, left, right, front, back.
_SIDES = np.array([(0.0, 0, -1), (0.0, 0, 1), (-1.0, 0, 0), (1.0, 0, 0), (0.0, -1, 0), (0.0, 1, 0)])
_SIDES.flags.writeable = False


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
    (x1, y1, z1), (x2, y2, z2) = map(float, low), map(float, high)
    x, half_x = (x1 + x2) / 2, (x2 - x1) / 2 * top[0]
    y, half_y = (y1 + y2) / 2 + lean, (y2 - y1) / 2 * top[1]
    X1, X2, Y1, Y2 = x - half_x, x + half_x, y - half_y, y + half_y
    corners = [(x1, y1, z1), (x2, y1, z1), (x2, y2, z1), (x1, y2, z1)]
    corners += [(X1, Y1, z2), (X2, Y1, z2), (X2, Y2, z2), (X1, Y2, z2)]
    vertices = np.array(corners)
    if top == (1.0, 1.0) and not lean:
        return Convex(vertices, _SIDES, np.array([-z1, z2, -x1, x2, -y1, y2]))
    tall = z2 - z1
    normals = np.array(
        [
            (0.0, 0.0, -1.0),
            (0.0, 0.0, 1.0),
            (-tall, 0.0, X1 - x1),
            (tall, 0.0, x2 - X2),
            (0.0, -tall, Y1 - y1),
            (0.0, tall, y2 - Y2),
        ]
    )
    normals /= np.sqrt(np.einsum("ij,ij->i", normals, normals))[:, None]
    # A corner on each plane, in the order of the planes.
    points = vertices[[0, 6, 0, 2, 0, 2]]
    return Convex(vertices, normals, np.einsum("ij,ij->i", normals, points))


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


def legs(
    width: float, depth: float, height: float, thick: float, inset: float = 0.0
) -> list[Convex]:
    """Four square legs ``thick`` metres wide below a top of ``width`` and ``depth``."""
    x, y = width / 2 - thick / 2 - inset, depth / 2 - thick / 2 - inset
    half = thick / 2
    return [
        block(
            (sx * x - half, sy * y - half, 0),
            (sx * x + half, sy * y + half, height),
        )
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]


def rotation_about_x(angle: float) -> np.ndarray:
    """The matrix (3, 3) that turns y towards z by ``angle`` radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[1.0, 0, 0], [0, cos, -sin], [0, sin, cos]])
