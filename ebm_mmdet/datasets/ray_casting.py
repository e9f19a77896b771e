"""Convex solids, and the first one that each ray from the sensor meets.

A solid is an intersection of half-spaces. A ray enters it at the last of the planes that it crosses
inwards, and leaves it at the first that it crosses outwards (Cyrus and Beck, 1978). The sensor is
at the origin, so a point on a ray is its direction times a distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import ConvexHull

__all__ = [
    "CLUTTER",
    "GROUND",
    "NOTHING",
    "Convex",
    "DepthImage",
    "RayGrid",
    "box_vertices",
    "prism_vertices",
]

# Sources of a return besides the objects 0, 1, 2, ...
GROUND, CLUTTER, NOTHING = -1, -2, -3


@dataclass(frozen=True)
class Convex:
    """A convex solid: ``{p : normals @ p <= offsets}``, in metres, with its surface properties.

    Attributes:
        vertices: (V, 3) points whose hull the solid is; its corners are among them.
        normals: (K, 3) outward unit normals.
        offsets: (K,) distances of the planes from the origin, along the normals.
        reflectance: fraction of the light that returns at perpendicular incidence, in [0, 1].
        return_rate: fraction of the pulses that return, in [0, 1]; glass and leaves lose many.
    """

    vertices: np.ndarray
    normals: np.ndarray
    offsets: np.ndarray
    reflectance: float = 0.5
    return_rate: float = 0.97

    @classmethod
    def hull(cls, vertices: np.ndarray, reflectance: float = 0.5, return_rate: float = 0.97):
        """The convex hull of points (V, 3) that do not lie in one plane."""
        vertices = np.asarray(vertices, float)
        # Qhull splits faces into triangles; keep each plane only once.
        planes = np.unique(ConvexHull(vertices).equations.round(9), axis=0)
        return cls(vertices, planes[:, :3], -planes[:, 3], reflectance, return_rate)

    def placed(self, yaw: float, position: Sequence[float]) -> Convex:
        """The solid rotated by ``yaw`` (radians, from x to y), then moved to ``position`` (3,)."""
        cos, sin = math.cos(yaw), math.sin(yaw)
        return self.moved(np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]]), position)

    def moved(self, rotation: np.ndarray, position: Sequence[float]) -> Convex:
        """The solid rotated by a matrix ``rotation`` (3, 3), then moved to ``position`` (3,)."""
        normals = self.normals @ rotation.T
        return replace(
            self,
            vertices=self.vertices @ rotation.T + position,
            normals=normals,
            offsets=self.offsets + normals @ np.asarray(position, float),
        )

    def first_hit(self, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance and cosine of incidence of rays from the origin.

        Args:
            directions: (..., 3) unit vectors.

        Returns:
            Distances (...) in metres, inf where a ray misses the solid or starts inside it; cosines
            (...) between the ray and the inward normal, in [0, 1].
        """
        distance, face, speed = self._entry(directions)
        return distance, -np.take_along_axis(speed, face[..., None], -1)[..., 0]

    def first_face(self, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where rays from the origin enter the solid, and through which of its planes.

        Args:
            directions: (..., 3), not necessarily of unit length.

        Returns:
            Multiples (...) of the directions at which the rays enter, inf where a ray misses the
            solid or starts inside it; row (...) of ``normals`` of the plane, which means nothing
            where the multiple is inf.
        """
        return self._entry(directions)[:2]

    def last_face(self, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where rays that start inside the solid leave it; arguments as in `first_face`.

        Raises:
            ValueError: the origin is not inside the solid.
        """
        if not (self.offsets > 0).all():
            raise ValueError(
                f"the origin is not inside the solid: it lies {-self.offsets.min():.3g} m outside "
                "of one of its planes; move the solid or the origin"
            )
        speed = directions @ self.normals.T
        with np.errstate(divide="ignore"):
            leave = np.where(speed > 0, self.offsets / speed, np.inf)
        face = leave.argmin(-1)
        return np.take_along_axis(leave, face[..., None], -1)[..., 0], face

    def _entry(self, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Multiples and planes as in `first_face`, and ``directions · normals`` (..., K)."""
        speed = directions @ self.normals.T
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = self.offsets / speed
        entering = speed < 0
        enter = np.where(entering, crossing, -np.inf)
        face = enter.argmax(-1)
        enter = np.take_along_axis(enter, face[..., None], -1)[..., 0]
        leave = np.where(speed > 0, crossing, np.inf).min(-1)
        # A ray parallel to a plane meets the solid only if the origin is on the inner side.
        outside = ((speed == 0) & (self.offsets < 0)).any(-1)
        hit = (enter > 0) & (enter < leave) & ~outside
        return np.where(hit, enter, np.inf), face, speed


def box_vertices(low: Sequence[float], high: Sequence[float]) -> np.ndarray:
    """The corners (8, 3) of an axis-parallel box."""
    return np.array(np.meshgrid(*zip(low, high), indexing="ij"), float).reshape(3, -1).T


def prism_vertices(radius: float, bottom: float, top: float, sides: int = 8) -> np.ndarray:
    """The corners (2 sides, 3) of an upright prism around the z axis."""
    angle = np.arange(sides) * (2 * math.pi / sides)
    ring = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate(
        [np.column_stack([ring, np.full(sides, level)]) for level in (bottom, top)]
    )


@dataclass(frozen=True)
class RayGrid:
    """Rays of a spinning sensor at the origin: one elevation per beam, one azimuth per column.

    Attributes:
        elevation: (B,) radians above the horizon, ascending.
        azimuth: (A,) radians from x towards y, ascending, within (-pi/2, pi/2).
    """

    elevation: np.ndarray
    azimuth: np.ndarray

    def directions(self) -> np.ndarray:
        """Unit vectors (B, A, 3)."""
        flat = np.cos(self.elevation)[:, None]
        return np.stack(
            np.broadcast_arrays(
                flat * np.cos(self.azimuth),
                flat * np.sin(self.azimuth),
                np.sin(self.elevation)[:, None],
            ),
            axis=-1,
        )

    def window(self, vertices: np.ndarray) -> tuple[slice, slice] | None:
        """Rows and columns that contain all rays that meet the hull of ``vertices`` (V, 3).

        Returns:
            The two slices; None if the hull lies behind the sensor.
        """
        x, y, z = vertices.T
        if x.min() <= 0:  # partly behind the sensor, where angles of corners give no bound
            return None if x.max() <= 0 else (slice(None), slice(None))
        azimuth = np.arctan2(y, x)
        columns = np.searchsorted(self.azimuth, [azimuth.min(), azimuth.max()])
        # Elevation is not monotonic along edges; a circle around the hull bounds it.
        centre = vertices[:, :2].mean(0)
        reach = np.hypot(*(vertices[:, :2] - centre).T).max()
        distance = math.hypot(*centre)
        nearest, farthest = max(distance - reach, 1e-3), distance + reach
        lowest = math.atan2(z.min(), nearest if z.min() < 0 else farthest)
        highest = math.atan2(z.max(), farthest if z.max() < 0 else nearest)
        rows = np.searchsorted(self.elevation, [lowest, highest])
        return slice(rows[0], rows[1] + 1), slice(columns[0], columns[1] + 1)


class DepthImage:
    """The first surface that every ray of a grid meets; solids are added one by one.

    Attributes:
        distance: (B, A) metres, inf for a ray that meets nothing.
        source: (B, A) int32, number of the object, or `GROUND`, `CLUTTER`, `NOTHING`.
        cosine: (B, A) cosine of the angle of incidence.
        reflectance: (B, A), see `Convex`.
        return_rate: (B, A), see `Convex`.
    """

    def __init__(self, grid: RayGrid) -> None:
        self.grid, self.directions = grid, grid.directions()
        shape = self.directions.shape[:2]
        self.distance = np.full(shape, np.inf)
        self.source = np.full(shape, NOTHING, np.int32)
        self.cosine, self.reflectance, self.return_rate = (np.zeros(shape) for _ in range(3))
        self._ground = self.distance.copy()

    def add_ground(
        self, height: float, slope: Sequence[float], reflectance: float, return_rate: float = 0.97
    ) -> None:
        """Add the ground plane ``z = height + slope · (x, y)``. Must be called first."""
        normal = np.array([-slope[0], -slope[1], 1.0]) / math.sqrt(1 + np.dot(slope, slope))
        speed = self.directions @ normal
        hit = speed < 0
        self.distance[hit] = height * normal[2] / speed[hit]
        self.source[hit] = GROUND
        self.cosine[hit] = -speed[hit]
        self.reflectance[hit], self.return_rate[hit] = reflectance, return_rate
        self._ground = self.distance.copy()

    def add(self, parts: Sequence[Convex], source: int) -> np.ndarray:
        """Add an object; nearer surfaces hide farther ones.

        Args:
            parts: solids that the object consists of.
            source: number of the object.

        Returns:
            (B, A) bool, the rays that meet the object before the ground, which are those that it
            would get without the other objects.
        """
        own = np.zeros(self.distance.shape, bool)
        for part in parts:
            window = self.grid.window(part.vertices)
            if window is None:
                continue
            distance, cosine = part.first_hit(self.directions[window])
            known, old = self.distance[window], self.source[window]
            own[window] |= distance < self._ground[window]
            nearer = distance < known
            known[nearer], old[nearer] = distance[nearer], source
            self.cosine[window][nearer] = cosine[nearer]
            self.reflectance[window][nearer] = part.reflectance
            self.return_rate[window][nearer] = part.return_rate
        return own
