"""Pictures of depth and normals, as arrays."""

from __future__ import annotations

import cv2
import numpy as np
from matplotlib import colormaps

__all__ = ["depth_to_colour", "depth_to_grey", "enlarge", "normals_to_rgb"]

UNKNOWN = 128
"""Grey value of pixels without a value."""


def depth_to_grey(depth: np.ndarray, limit: float | None = None) -> np.ndarray:
    """Grey picture of depth, near white and far black: ``255 (1 - depth / limit)``.

    Args:
        depth: (H, W) in metres; values that are not positive and finite are unknown.
        limit: depth in metres that is black; by default the largest known depth.

    Returns:
        (H, W) uint8; 0 where unknown.
    """
    depth, known = np.asarray(depth, np.float64), _known(depth)
    limit = _limit(depth, known, limit)
    grey = 255 * (1 - (np.where(known, depth, limit) / limit).clip(0, 1))
    return np.rint(grey).astype(np.uint8)


def depth_to_colour(depth: np.ndarray, limit: float | None = None) -> np.ndarray:
    """Colour picture of depth, near bright and far dark, with the map of all heat pictures.

    Args:
        depth: (H, W) in metres, as for :func:`depth_to_grey`.
        limit: depth in metres of the darkest colour; by default the largest known depth.

    Returns:
        (H, W, 3) uint8 RGB; grey where unknown.
    """
    depth, known = np.asarray(depth, np.float64), _known(depth)
    limit = _limit(depth, known, limit)
    near = 1 - (np.where(known, depth, limit) / limit).clip(0, 1)
    colour = colormaps["magma"](near, bytes=True)[..., :3]
    return np.where(known[..., None], colour, np.uint8(UNKNOWN))


def normals_to_rgb(normals: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Picture of unit normals, ``255 (n + 1) / 2`` for (x, y, z) as (red, green, blue).

    Args:
        normals: (3, H, W) unit vectors.
        mask: (H, W) bool, True where the normal is known; by default wherever it is finite.

    Returns:
        (H, W, 3) uint8 RGB; grey where unknown.
    """
    normals = np.asarray(normals, np.float64).transpose(1, 2, 0)
    known = np.isfinite(normals).all(-1)
    if mask is not None:
        known &= np.asarray(mask, bool)
    rgb = np.where(known[..., None], (normals + 1) / 2 * 255, UNKNOWN)
    return np.rint(rgb.clip(0, 255)).astype(np.uint8)


def enlarge(picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Picture (H, W, 3) at another size (height, width), without new values between pixels."""
    return cv2.resize(picture, shape[::-1], interpolation=cv2.INTER_NEAREST)


def _known(depth: np.ndarray) -> np.ndarray:
    return np.isfinite(depth) & (np.asarray(depth) > 0)


def _limit(depth: np.ndarray, known: np.ndarray, limit: float | None) -> float:
    if limit is None:
        limit = depth[known].max() if known.any() else 1.0
    if not limit > 0:
        raise ValueError(f"limit={limit} must be a positive depth in metres")
    return float(limit)
