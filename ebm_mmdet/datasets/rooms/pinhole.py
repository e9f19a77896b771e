"""A pinhole camera, and the first surface that the ray through each pixel meets.

Camera frame, as for the surface normals of NYUv2: x to the right, y up, z towards the viewer, the
camera at the origin, metres. What is seen has a negative z, and its depth is -z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ray_casting import Convex

__all__ = ["PinholeCamera", "SurfaceImage"]

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

    def rays(self) -> np.ndarray:
        """Directions (H, W, 3) through the centres of the pixels, with z = -1.

        A direction times a depth is the point at that depth.
        """
        height, width = self.image_size
        x = (np.arange(width) + 0.5 - width / 2) / self.focal
        y = (height / 2 - np.arange(height) - 0.5) / self.focal
        return np.stack(np.broadcast_arrays(x, y[:, None], -1.0), axis=-1)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixel coordinates (N, 2) of points (N, 3) before the camera; (0, 0) is a corner."""
        height, width = self.image_size
        scale = self.focal / -points[:, 2]
        return np.stack(
            [width / 2 + points[:, 0] * scale, height / 2 - points[:, 1] * scale], axis=1
        )

    def window(self, vertices: np.ndarray) -> tuple[slice, slice] | None:
        """Rows and columns that hold all pixels in which the hull of ``vertices`` (V, 3) is seen.

        Returns:
            The two slices; None if the hull is outside the image or not in front of the camera.
        """
        ahead = vertices[:, 2] <= -NEAR
        if not ahead.any():
            return None
        points = vertices[ahead]
        if len(points) < len(vertices):
            # The part of a hull before a plane is the hull of the vertices before it and of the
            # points where the lines between vertices before and behind it cross it.
            behind = vertices[~ahead]
            share = (-NEAR - points[:, None, 2]) / (behind[None, :, 2] - points[:, None, 2])
            crossing = points[:, None] + share[..., None] * (behind[None] - points[:, None])
            points = np.concatenate([points, crossing.reshape(-1, 3)])
        pixels = self.project(points)
        height, width = self.image_size
        # The first and the last centre of a pixel inside.
        left, top = np.ceil(pixels.min(0) - 0.5).clip(0, (width, height)).astype(int).tolist()
        right, bottom = np.floor(pixels.max(0) + 0.5).clip(0, (width, height)).astype(int).tolist()
        if left >= right or top >= bottom:
            return None
        return slice(top, bottom), slice(left, right)


class SurfaceImage:
    """The first surface in every pixel; solids, in the camera frame, are added one by one.

    Attributes:
        depth: (H, W) float64 metres along the optical axis, inf where nothing is seen.
        face: (H, W) int32 number of the plane that is seen; the planes are numbered in the order of
            the solids added. -1 where nothing is seen.
        num_faces: number of planes of all solids added.
    """

    def __init__(self, camera: PinholeCamera) -> None:
        self.camera, self.rays = camera, camera.rays()
        self.depth = np.full(camera.image_size, np.inf)
        self.face = np.full(camera.image_size, -1, np.int32)
        self.num_faces = 0

    def add_room(self, inside: Convex) -> None:
        """Add the walls around a convex room that the camera is in. Must be called first.

        Raises:
            ValueError: the camera is not inside.
        """
        self.depth, face = inside.last_face(self.rays)
        self.face = face.astype(np.int32)
        self.num_faces = len(inside.normals)
        self._walls = self.depth.copy()

    def add(self, solid: Convex, alone: np.ndarray | None = None) -> None:
        """Add a solid; nearer surfaces hide farther ones.

        Args:
            solid: the solid; its planes get the numbers from ``num_faces`` on.
            alone: (H, W) bool, updated in place: becomes True in the pixels in which the solid is
                before the walls, which are those in which it would be seen without other solids.
        """
        first, self.num_faces = self.num_faces, self.num_faces + len(solid.normals)
        window = self.camera.window(solid.vertices)
        if window is None:
            return
        depth, face = solid.first_face(self.rays[window])
        if alone is not None:
            alone[window] |= depth < self._walls[window]
        known = self.depth[window]
        nearer = depth < known
        known[nearer] = depth[nearer]
        self.face[window][nearer] = face[nearer] + first
