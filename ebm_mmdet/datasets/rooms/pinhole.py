"""A pinhole camera, and the first surface that the ray through each pixel meets.

Camera frame, as for the surface normals of NYUv2: x to the right, y up, z towards the viewer, the
camera at the origin, metres. What is seen has a negative z, and its depth is -z.

A ray through a pixel is a direction d with z = -1, so that the point at depth t is t d. A solid
{p : n_k · p <= o_k for all k} contains it if, with w = 1 / t,

    w <= (n_k · d) / o_k  for the planes with o_k < 0,  which the camera is in front of,
    w >= (n_k · d) / o_k  for the planes with o_k > 0,  which it is behind.

Both sides are linear in the coordinates of the pixel. So a ray enters at the smallest of the first
and leaves at the largest of the second; this is `Convex.first_face` without a division per ray.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ray_casting import Convex

__all__ = ["PinholeCamera", "SurfaceImage", "inverse_planes"]

NEAR = 0.05
"""Metres; what is nearer to the camera's plane than this may be missed."""


@dataclass(frozen=True)
class PinholeCamera:
    """A camera without distortion whose optical axis goes through the centre of the image.

    Attributes:
        image_size: (height, width) in pixels.
        focal: focal length in pixels.
    """

    image_size: tuple[int, int]
    focal: float

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """X (W,) of the rays through each column and y (H,) of those through each row."""
        height, width = self.image_size
        x = (np.arange(width) + 0.5 - width / 2) / self.focal
        y = (height / 2 - np.arange(height) - 0.5) / self.focal
        return x, y

    def rays(self) -> np.ndarray:
        """Directions (H, W, 3) through the centres of the pixels, with z = -1.

        A direction times a depth is the point at that depth.
        """
        x, y = self.axes()
        return np.stack(np.broadcast_arrays(x, y[:, None], -1.0), axis=-1)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixel coordinates (..., 2) of points (..., 3) before the camera; (0, 0) is a corner."""
        height, width = self.image_size
        scale = self.focal / -points[..., 2:]
        return np.array([width / 2, height / 2]) + points[..., :2] * scale * (1.0, -1.0)

    def windows(self, vertices: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Where hulls can be seen.

        Args:
            vertices: (V, 3) of all hulls, one after the other.
            start: (P,) position of each hull's first vertex.

        Returns:
            (P, 4) int, rows and columns (top, bottom, left, right), half-open: all pixels whose
            centre sees the hull are inside. Empty (0, 0, 0, 0) for a hull that is not seen.
        """
        ahead = vertices[:, 2] <= -NEAR
        whole = np.logical_and.reduceat(ahead, start)
        some = np.logical_or.reduceat(ahead, start)
        safe = np.where(ahead[:, None], vertices, (0.0, 0.0, -1.0))
        pixels = self.project(safe)
        low, high = np.minimum.reduceat(pixels, start), np.maximum.reduceat(pixels, start)
        for k in np.flatnonzero(some & ~whole):
            part = vertices[start[k] : start[k + 1] if k + 1 < len(start) else None]
            clipped = self.project(_before_near_plane(part))
            low[k], high[k] = clipped.min(0), clipped.max(0)
        height, width = self.image_size
        # The first and the last centre of a pixel inside.
        left, top = np.ceil(low - 0.5).clip(0, (width, height)).astype(int).T
        right, bottom = np.floor(high + 0.5).clip(0, (width, height)).astype(int).T
        seen = some & (left < right) & (top < bottom)
        return np.stack([top, bottom, left, right], axis=1) * seen[:, None]


def _before_near_plane(vertices: np.ndarray) -> np.ndarray:
    """Points whose hull is the part of the hull of ``vertices`` before the near plane.

    It is the hull of the vertices before the plane, and of the points in which the lines to the
    vertices behind it cross it.
    """
    ahead = vertices[:, 2] <= -NEAR
    front, behind = vertices[ahead], vertices[~ahead]
    share = (-NEAR - front[:, None, 2]) / (behind[None, :, 2] - front[:, None, 2])
    crossing = front[:, None] + share[..., None] * (behind[None] - front[:, None])
    return np.concatenate([front, crossing.reshape(-1, 3)])


def inverse_planes(normals: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """N / o (K, 3); a plane through the camera counts as one just behind it."""
    safe = np.where(np.abs(offsets) < 1e-12, 1e-12, offsets)
    return normals / safe[:, None]


class SurfaceImage:
    """The first surface in every pixel; solids, in the camera frame, are added one by one.

    Attributes:
        inverse_depth: (H, W) float64, one over the depth in metres; 0 where nothing is seen.
        face: (H, W) int32 number of the plane that is seen, -1 where nothing is.
    """

    def __init__(self, camera: PinholeCamera) -> None:
        self.camera = camera
        self._x, self._y = camera.axes()
        self.inverse_depth = np.zeros(camera.image_size)
        self.face = np.full(camera.image_size, -1, np.int32)
        self._walls = self.inverse_depth

    @property
    def depth(self) -> np.ndarray:
        """Metres along the optical axis (H, W), inf where nothing is seen."""
        with np.errstate(divide="ignore"):
            return 1 / self.inverse_depth

    def add_room(self, inside: Convex) -> None:
        """Add the walls around a convex room that the camera is in. Must be called first.

        Its planes get the numbers from 0 on.

        Raises:
            ValueError: the camera is not inside.
        """
        depth, face = inside.last_face(self.camera.rays())
        self.face, self.inverse_depth = face.astype(np.int32), 1 / depth
        self._walls = self.inverse_depth.copy()

    def add(
        self,
        planes: np.ndarray,
        front: np.ndarray,
        window: np.ndarray,
        first_face: int,
        alone: np.ndarray | None = None,
    ) -> None:
        """Add a solid; nearer surfaces hide farther ones.

        Args:
            planes: (K, 3) outward normals over the distances of the planes from the camera, see
                `inverse_planes`.
            front: (K,) bool, the planes that the camera is in front of. If there is none, the
                camera is inside the solid, which is not seen then.
            window: (4,) rows and columns of the solid, see `PinholeCamera.windows`.
            first_face: number of its first plane.
            alone: (H, W) bool, updated in place: becomes True in the pixels in which the solid is
                before the walls, which are those in which it would be seen without other solids.
        """
        top, bottom, left, right = window
        ahead = front.nonzero()[0]
        if top == bottom or not len(ahead):
            return
        rows, columns = slice(top, bottom), slice(left, right)
        a, b, c = planes.T[..., None]
        value = (b * self._y[rows] - c)[:, :, None] + (a * self._x[columns])[:, None, :]
        first = value[ahead]
        face = ahead[0] if len(ahead) == 1 else ahead[first.argmin(0)]
        enter, leave = first.min(0), value[~front].max(0, initial=0.0)
        hit = enter > leave
        if alone is not None:
            alone[rows, columns] |= hit & (enter > self._walls[rows, columns])
        known = self.inverse_depth[rows, columns]
        nearer = hit & (enter > known)
        np.copyto(known, enter, where=nearer)
        np.copyto(self.face[rows, columns], face + first_face, where=nearer, casting="unsafe")
