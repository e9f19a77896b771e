"""Rectangles on the floor, for placing objects that do not touch."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["overlap", "rectangle"]


def rectangle(x: float, y: float, yaw: float, length: float, width: float) -> np.ndarray:
    """The corners (4, 2) of a rectangle, in order."""
    along = 0.5 * length * np.array([math.cos(yaw), math.sin(yaw)])
    across = 0.5 * width * np.array([-math.sin(yaw), math.cos(yaw)])
    offsets = [along + across, along - across, -along - across, across - along]
    return np.array([x, y]) + np.array(offsets)


def overlap(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two rectangles (4, 2) share a point: no side of either separates them."""
    for corners in (first, second):
        axes = corners[1:3] - corners[:2]
        a, b = first @ axes.T, second @ axes.T
        if ((a.max(0) < b.min(0)) | (b.max(0) < a.min(0))).any():
            return False
    return True
