"""Where the camera stands, and where it looks."""

from __future__ import annotations

import math

import numpy as np

from .furniture import CLUTTER
from .room import Room

__all__ = ["choose_view"]

_VIEWS = 24  # places that are tried


def choose_view(rng: np.random.Generator, room: Room) -> tuple[np.ndarray, np.ndarray]:
    """A place to stand, mostly near a wall, from which furniture is seen.

    Returns:
        Position (3,) of the camera; rotation (3, 3) from the room's frame to the camera's.
    """
    targets = [t for t in room.things if t.label != CLUTTER] or room.things
    targets = np.array([t.point(0, 0, t.size[2] / 2) for t in targets])
    half = np.array(room.size[:2]) / 2
    spots = rng.uniform(-1, 1, (_VIEWS, 2)) * (half - 0.3)
    at_wall = np.flatnonzero(rng.random(_VIEWS) < 0.8)
    axis = rng.integers(0, 2, len(at_wall))
    distance = half[axis] - rng.uniform(0.25, 0.6, len(at_wall))
    spots[at_wall, axis] = rng.choice([-1, 1], len(at_wall)) * distance
    eyes = np.column_stack([spots, rng.uniform(1.0, min(1.95, room.size[2] - 0.3), _VIEWS)])
    aims = targets[rng.integers(0, len(targets), _VIEWS)] - eyes
    aims += rng.normal(0, (0.4, 0.4, 0.2), (_VIEWS, 3))
    yaw = np.arctan2(aims[:, 1], aims[:, 0])
    pitch = np.arctan2(aims[:, 2], np.hypot(aims[:, 0], aims[:, 1]).clip(0.5)).clip(-0.65, 0.12)
    roll = rng.normal(0, 0.03, _VIEWS)
    turns = np.array([_rotation(*angles) for angles in zip(yaw, pitch, roll)])
    x, _, z = np.moveaxis((targets - eyes[:, None]) @ turns.transpose(0, 2, 1), -1, 0)
    seen = ((z < -0.9) & (np.abs(x) < -0.55 * z)).sum(1)
    score = seen + 2.5 * rng.random(_VIEWS) + 30 * (_clearance(spots, room) - 0.6).clip(None, 0)
    best = score.argmax()
    return eyes[best], turns[best]


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """From a frame with z up to the camera's; yaw from x to y, pitch upwards, in radians."""
    (cy, sy), (cp, sp) = (math.cos(yaw), math.sin(yaw)), (math.cos(pitch), math.sin(pitch))
    ahead, right = np.array([cy * cp, sy * cp, sp]), np.array([sy, -cy, 0.0])
    up = np.array([-cy * sp, -sy * sp, cp])  # right x ahead
    cos, sin = math.cos(roll), math.sin(roll)
    return np.stack([cos * right + sin * up, cos * up - sin * right, -ahead])


def _clearance(points: np.ndarray, room: Room) -> np.ndarray:
    """Distance (N,) of points (N, 2) from the nearest footprint, negative inside it."""
    if not room.footprints:
        return np.full(len(points), np.inf)
    corners = np.array(room.footprints)
    centre, sides = corners.mean(1), corners[:, 1:3] - corners[:, :2]
    lengths = np.linalg.norm(sides, axis=2).clip(1e-9)
    along = np.einsum("pfj,fkj->pfk", points[:, None] - centre, sides / lengths[..., None])
    offset = np.abs(along) - lengths / 2
    return (np.linalg.norm(offset.clip(0), axis=2) + offset.max(2).clip(None, 0)).min(1)
