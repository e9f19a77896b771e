"""KITTI's two coordinate frames, its image, and the labels that can be computed from a box.

Frames and boxes:

- LiDAR: x forwards, y left, z up; ``(x, y, z_bottom, l, w, h, yaw)``, yaw from x towards y.
- camera (rectified): x right, y down, z forwards; ``(x, y_bottom, z, l, h, w, ry)``,
  ``ry = -yaw - pi/2``.

Both angles lie in [-pi, pi). Only numpy is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = [
    "SYNTHETIC_CAMERA",
    "Camera",
    "box_corners",
    "difficulty",
    "image_boxes",
    "in_image",
    "occlusion_level",
    "points_in_boxes",
    "wrap_angle",
]

# (easy, moderate, hard): smallest height of the box in the image in pixels, largest occlusion
# level, largest truncation. Source: KITTI object benchmark, development kit.
_LIMITS = ((40.0, 0, 0.15), (25.0, 1, 0.3), (25.0, 2, 0.5))
_NEAREST = 0.1  # metres in front of the camera; closer corners are moved there before projection


def wrap_angle(angle: np.ndarray) -> np.ndarray:
    """Wrap angles (...) in radians to [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


@dataclass(frozen=True)
class Camera:
    """A pinhole camera of a KITTI frame.

    Attributes:
        projection: (3, 4) ``P2``, from the rectified camera frame to pixels.
        lidar_to_camera: (4, 4) ``R0_rect @ Tr_velo_to_cam``.
        image_shape: (height, width) in pixels.
    """

    projection: np.ndarray
    lidar_to_camera: np.ndarray
    image_shape: tuple[int, int]

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (..., 3) of the LiDAR frame -> pixels (..., 2) as x, y, and depth (...) in metres.

        Points less than 0.1 m in front of the camera, or behind it, are projected as if they were
        0.1 m in front.
        """
        camera = points @ self.lidar_to_camera[:3, :3].T + self.lidar_to_camera[:3, 3]
        depth = camera[..., 2]
        camera = np.concatenate([camera[..., :2], np.maximum(depth, _NEAREST)[..., None]], axis=-1)
        image = camera @ self.projection[:, :3].T + self.projection[:, 3]
        return image[..., :2] / image[..., 2:], depth

    def boxes_to_camera(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (M, 7) of the LiDAR frame -> boxes (M, 7) of the camera frame."""
        centre = boxes[:, :3] @ self.lidar_to_camera[:3, :3].T + self.lidar_to_camera[:3, 3]
        angle = wrap_angle(-boxes[:, 6] - np.pi / 2)
        return np.column_stack([centre, boxes[:, [3, 5, 4]], angle])

    def boxes_to_lidar(self, boxes: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`boxes_to_camera`."""
        inverse = np.linalg.inv(self.lidar_to_camera)
        centre = boxes[:, :3] @ inverse[:3, :3].T + inverse[:3, 3]
        angle = wrap_angle(-boxes[:, 6] - np.pi / 2)
        return np.column_stack([centre, boxes[:, [3, 5, 4]], angle])


# Similar to KITTI's left colour camera: the same image size, a focal length of 720 pixels, mounted
# a little below and in front of the LiDAR; the axes are exactly parallel.
SYNTHETIC_CAMERA = Camera(
    projection=np.array([[720.0, 0, 621.0, 0], [0, 720.0, 187.5, 0], [0, 0, 1.0, 0]]),
    lidar_to_camera=np.array(
        [[0, -1.0, 0, 0], [0, 0, -1.0, -0.08], [1.0, 0, 0, -0.27], [0, 0, 0, 1.0]]
    ),
    image_shape=(375, 1242),
)


def in_image(points: np.ndarray, camera: Camera) -> np.ndarray:
    """(N,) bool: the points (N, 3 or more) of the LiDAR frame that lie in the image."""
    pixels, depth = camera.project(np.asarray(points[:, :3], float))
    height, width = camera.image_shape
    return (depth > 0) & (pixels >= 0).all(1) & (pixels < (width, height)).all(1)


def box_corners(boxes: np.ndarray) -> np.ndarray:
    """The corners (M, 8, 3) of boxes (M, 7) of the LiDAR frame, in no particular order."""
    unit = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (0.0, 1.0)])
    local = unit * boxes[:, None, 3:6]
    cos, sin = np.cos(boxes[:, 6:7]), np.sin(boxes[:, 6:7])
    turned = (local[..., 0] * cos - local[..., 1] * sin, local[..., 0] * sin + local[..., 1] * cos)
    return np.stack([*turned, local[..., 2]], axis=-1) + boxes[:, None, :3]


def points_in_boxes(points: np.ndarray, boxes: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """(N, M) bool: whether point n lies in box m.

    Args:
        points: (N, 3 or more) of the LiDAR frame.
        boxes: (M, 7) of the LiDAR frame.
        margin: metres by which every face is moved outwards.
    """
    shift = np.asarray(points[:, None, :3], float) - boxes[None, :, :3]
    cos, sin = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
    along = shift[..., 0] * cos + shift[..., 1] * sin
    across = shift[..., 1] * cos - shift[..., 0] * sin
    up = shift[..., 2] - 0.5 * boxes[:, 5]
    inside = [
        np.abs(offset) <= 0.5 * boxes[:, column] + margin
        for offset, column in ((along, 3), (across, 4), (up, 5))
    ]
    return np.logical_and.reduce(inside)


def image_boxes(boxes: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """2D boxes around the corners of 3D boxes.

    Args:
        boxes: (M, 7) of the LiDAR frame.
        camera: the camera of the frame.

    Returns:
        Boxes (M, 4) ``(x1, y1, x2, y2)`` in pixels, clipped to the image; truncation (M,) in
        [0, 1], the fraction of the area of the unclipped box that is outside, 1 for a box behind
        the camera.
    """
    pixels, depth = camera.project(box_corners(boxes))
    low, high = pixels.min(1), pixels.max(1)
    limit = np.array(camera.image_shape[::-1], float)
    clipped = np.column_stack([low, high]).clip(0, np.tile(limit, 2))
    area = (high - low).prod(1)
    visible = (clipped[:, 2:] - clipped[:, :2]).prod(1)
    truncation = np.where(depth.max(1) > 0, 1 - visible / np.maximum(area, 1e-9), 1.0)
    return clipped, truncation


def occlusion_level(share: np.ndarray) -> np.ndarray:
    """KITTI's levels (M,) int64 from the hidden fraction of each vehicle, (M,) in [0, 1].

    0 fully visible (below 0.1), 1 partly (below 0.5), 2 largely (below 0.9), 3 unknown. KITTI's
    annotators judged by eye; the limits are our choice.
    """
    return np.digitize(share, (0.1, 0.5, 0.9)).astype(np.int64)


def difficulty(height: np.ndarray, occlusion: np.ndarray, truncation: np.ndarray) -> np.ndarray:
    """KITTI's difficulty (M,) int64: 0 easy, 1 moderate, 2 hard, -1 not evaluated.

    Args:
        height: (M,) heights of the boxes in the image, pixels.
        occlusion: (M,) levels of `occlusion_level`.
        truncation: (M,) fractions outside the image, in [0, 1].
    """
    result = np.full(len(height), -1, np.int64)
    for level in (2, 1, 0):
        least, hidden, outside = _LIMITS[level]
        result[(height > least) & (occlusion <= hidden) & (truncation <= outside)] = level
    return result
