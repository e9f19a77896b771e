"""Outlines of generated shapes: exact boxes, signed distances, and placement of shapes.

The box of a shape is the tight box of its *full analytic outline*, in sub-pixel coordinates: pixel
``(i, j)`` covers ``[j, j + 1) x [i, i + 1)``, boxes are half-open ``(x1, y1, x2, y2)``. A shape is
only placed where it covers none of the four extreme points of the shapes below it, so the box of
the visible part is the same and a detector need not guess.

A shape may have a handle, which an annotator may include or leave out. It then has two boxes, and
both of them are visible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..box_iou import box_iou

__all__ = ["CLASSES", "HandledOutline", "Outline", "place_outlines", "random_outline"]

CLASSES = ("ellipse", "polygon", "star")

# No class may cover an extreme point of another shape by less than this distance (pixels): the
# anti-aliased rim of the covering shape must not touch the point either.
_CLEARANCE = 1.5
_MAX_BOX_IOU = 0.3  # far below any NMS threshold, so that a crowd never costs a true positive
_PLACEMENT_TRIES = 12
_HANDLE_WIDTH = (0.15, 0.3)  # of the side across; the thinnest body still is twice as wide
_THINNEST_HANDLE = 3.0  # pixels, so that the smallest handle is visible


@dataclass(frozen=True)
class Outline:
    """A closed curve: an ellipse (``vertices is None``) or a simple polygon.

    Attributes:
        label: Index into `CLASSES`.
        centre: ``(2,)`` x, y in pixels.
        matrix: ``(2, 2)`` map from the unit shape to pixels; an ellipse is ``centre + matrix u``
            over the unit circle ``u``.
        vertices: ``(K, 2)`` polygon corners in pixels, in order, or None for an ellipse.
    """

    label: int
    centre: np.ndarray
    matrix: np.ndarray
    vertices: np.ndarray | None

    def extremes(self) -> np.ndarray:
        """Return the left, top, right and bottom extreme points, ``(4, 2)``."""
        if self.vertices is None:
            # The point of an ellipse farthest along e_d is centre + M M^T e_d / |M^T e_d|.
            gram = self.matrix @ self.matrix.T
            reach = (gram / np.sqrt(gram.diagonal())).T
            return self.centre + np.concatenate([-reach, reach])
        lowest, highest = self.vertices.argmin(0), self.vertices.argmax(0)
        return self.vertices[np.concatenate([lowest, highest])]

    def moved(self, shift: np.ndarray) -> Outline:
        """Return the same shape, shifted by ``(2,)`` x, y in pixels."""
        vertices = None if self.vertices is None else self.vertices + shift
        return Outline(self.label, self.centre + shift, self.matrix, vertices)

    def box(self) -> np.ndarray:
        """Return the exact tight box ``(4,)``, xyxy in pixels."""
        left, top, right, bottom = self.extremes()
        return np.array([left[0], top[1], right[0], bottom[1]])

    def signed_distance(self, points: np.ndarray) -> np.ndarray:
        """Return the distance to the outline in pixels, negative inside.

        Exact for polygons; for ellipses the first-order estimate ``F / |grad F|``, exact on the
        curve and within a hundredth of a pixel in the anti-aliased rim, where it matters.

        Args:
            points: ``(..., 2)`` x, y in pixels.

        Returns:
            ``(...)`` distances, in the dtype of `points`.
        """
        if self.vertices is None:
            return self._ellipse_distance(points)
        return self._polygon_distance(points)

    def _ellipse_distance(self, points: np.ndarray) -> np.ndarray:
        inverse = np.linalg.inv(self.matrix).astype(points.dtype)
        unit = (points - self.centre.astype(points.dtype)) @ inverse.T
        radius = np.maximum(np.sqrt((unit * unit).sum(-1)), 1e-6)
        gradient = unit @ inverse  # of the radius, times the radius
        return (radius - 1) * radius / np.maximum(np.sqrt((gradient * gradient).sum(-1)), 1e-6)

    def _polygon_distance(self, points: np.ndarray) -> np.ndarray:
        x, y = np.ascontiguousarray(points[..., 0]), np.ascontiguousarray(points[..., 1])
        # One leading axis for the edges a-b.
        ax, ay = self.vertices.T.astype(points.dtype).reshape(2, -1, *([1] * x.ndim))
        dx, dy = np.roll(ax, -1, axis=0) - ax, np.roll(ay, -1, axis=0) - ay
        px, py = x - ax, y - ay
        length = dx * dx + dy * dy
        along = px * (dx / length)
        along += py * (dy / length)
        np.minimum(np.maximum(along, 0, out=along), 1, out=along)
        # Even-odd rule: a ray to the right crosses the edge a-b. The sign of the cross product
        # says on which side of the edge the point lies.
        below = py >= 0
        crosses = (below != np.roll(below, -1, axis=0)) & ((px * dy < py * dx) == (dy > 0))
        px -= along * dx
        py -= along * dy
        px *= px
        py *= py
        px += py
        distance = np.sqrt(px.min(axis=0))
        return np.where(np.logical_xor.reduce(crosses, axis=0), -distance, distance)


@dataclass(frozen=True)
class HandledOutline:
    """A shape and its handle, a bar under it that sticks out on one of the four sides.

    It has two boxes that differ in this side alone: that of the body, and that of everything.
    """

    body: Outline
    handle: Outline

    @property
    def label(self) -> int:
        """Index into `CLASSES`."""
        return self.body.label

    def boxes(self) -> np.ndarray:
        """Return both exact boxes ``(2, 4)``, xyxy in pixels: without and with the handle."""
        body, handle = self.body.box(), self.handle.box()
        whole = np.concatenate([np.minimum(body[:2], handle[:2]), np.maximum(body[2:], handle[2:])])
        return np.stack([body, whole])

    def box(self) -> np.ndarray:
        """Return the box ``(4,)`` with the handle."""
        return self.boxes()[1]

    def extremes(self) -> np.ndarray:
        """Return all points ``(8, 2)`` that one of the boxes may depend on."""
        return np.concatenate([self.body.extremes(), self.handle.vertices])

    def moved(self, shift: np.ndarray) -> HandledOutline:
        """Return the same shape, shifted by ``(2,)`` x, y in pixels."""
        return HandledOutline(self.body.moved(shift), self.handle.moved(shift))

    def signed_distance(self, points: np.ndarray) -> np.ndarray:
        """Return the distance to the union, as `Outline.signed_distance`."""
        return np.minimum(self.body.signed_distance(points), self.handle.signed_distance(points))


def _with_handle(
    rng: np.random.Generator, body: Outline, length: tuple[float, float]
) -> HandledOutline:
    """Add a handle from the centre of the body through one of its sides.

    Args:
        rng: Source of randomness.
        body: A shape that contains its centre.
        length: Smallest and largest part outside the body, relative to the body's side along it.
    """
    x1, y1, x2, y2 = body.box()
    along, sign = int(rng.integers(2)), float(rng.choice((-1.0, 1.0)))
    sides = np.array([x2 - x1, y2 - y1])
    reach = rng.uniform(*length) * sides[along]
    width = max(rng.uniform(*_HANDLE_WIDTH) * sides[1 - along], _THINNEST_HANDLE)
    border = ((x1, x2), (y1, y2))[along][int(sign > 0)]
    # On the axis of the body and thinner than it: the sides across do not change.
    ends, across = np.array([body.centre[along], border + sign * reach]), np.array([-0.5, 0.5])
    corners = np.empty((4, 2))
    corners[:, along] = ends[[0, 1, 1, 0]]
    corners[:, 1 - along] = body.centre[1 - along] + width * across[[0, 0, 1, 1]]
    return HandledOutline(body, Outline(body.label, corners.mean(0), np.eye(2), corners))


def _unit_vertices(name: str, rng: np.random.Generator) -> np.ndarray | None:
    """Return the corners ``(K, 2)`` of a shape in the unit circle; None for the ellipse."""
    if name == "ellipse":
        return None
    if name == "polygon":
        corners = int(rng.integers(3, 6))
        angle = (np.arange(corners) + rng.uniform(-0.2, 0.2, corners)) * (2 * math.pi / corners)
        radius = np.ones(corners)
    else:  # star
        corners = 2 * int(rng.integers(4, 7))
        angle = np.arange(corners) * (2 * math.pi / corners)
        radius = np.where(np.arange(corners) % 2 == 0, 1.0, rng.uniform(0.4, 0.55))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def random_outline(
    rng: np.random.Generator,
    image_size: tuple[int, int],
    extent: tuple[float, float],
    handle_length: tuple[float, float] | None = None,
) -> Outline | HandledOutline | None:
    """Draw one rotated shape that lies inside the image.

    Args:
        rng: Source of randomness.
        image_size: ``(height, width)`` in pixels.
        extent: Smallest and largest length of a shape's longer axis, in pixels (log-uniform).
        handle_length: Smallest and largest length of a handle outside the body, relative to the
            body's side along it. None: no handles.

    Returns:
        The outline, or None if the shape drawn is larger than the image.
    """
    height, width = image_size
    label = int(rng.integers(len(CLASSES)))
    half = 0.5 * math.exp(rng.uniform(math.log(extent[0]), math.log(extent[1])))
    axes = half * np.array([1.0, rng.uniform(0.45, 1.0)])
    angle = rng.uniform(0, 2 * math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = np.array([[cos, -sin], [sin, cos]]) * axes
    unit = _unit_vertices(CLASSES[label], rng)
    shape = Outline(label, np.zeros(2), matrix, None if unit is None else unit @ matrix.T)
    if handle_length is not None:
        shape = _with_handle(rng, shape, handle_length)
    x1, y1, x2, y2 = shape.box()
    if x2 - x1 >= width - 2 or y2 - y1 >= height - 2:
        return None
    centre = np.array([rng.uniform(1 - x1, width - 1 - x2), rng.uniform(1 - y1, height - 1 - y2)])
    return shape.moved(centre)


def place_outlines(
    rng: np.random.Generator,
    image_size: tuple[int, int],
    num_shapes: tuple[int, int],
    extent: tuple[float, float],
    handle_length: tuple[float, float] | None = None,
) -> list[Outline] | list[HandledOutline]:
    """Draw shapes, later ones on top, such that every extreme point stays visible.

    Args:
        rng: Source of randomness.
        image_size: ``(height, width)`` in pixels.
        num_shapes: Smallest and largest intended number of shapes; a crowded image may get fewer.
        extent: See `random_outline`.
        handle_length: Likewise.

    Returns:
        Outlines from bottom to top.
    """
    placed: list = []
    boxes: list[np.ndarray] = []
    extremes: list[np.ndarray] = []
    for _ in range(int(rng.integers(num_shapes[0], num_shapes[1] + 1))):
        for _ in range(_PLACEMENT_TRIES):
            outline = random_outline(rng, image_size, extent, handle_length)
            if outline is None:
                continue
            box = outline.box()
            if boxes and box_iou(box, np.stack(boxes)).max() > _MAX_BOX_IOU:
                continue
            if extremes:
                distance = outline.signed_distance(np.concatenate(extremes))
                if distance.min() < _CLEARANCE:
                    continue
            placed.append(outline)
            boxes.append(box)
            extremes.append(outline.extremes())
            break
    return placed
