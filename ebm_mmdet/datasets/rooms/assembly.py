"""All solids of a scene in the camera frame, as flat arrays, and the shadows that they throw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .furniture import Furniture
from .pinhole import inverse_planes

__all__ = ["Assembly", "shadow"]

_ZERO, _FAR = np.float32(0), np.float32(np.inf)


@dataclass(frozen=True)
class Assembly:
    """T things that consist of P convex parts, which have F planes and V vertices.

    Parts are in the order of the things, planes and vertices in the order of the parts.

    Attributes:
        rotations: (T, 3, 3) from each thing's frame to the camera's.
        positions: (T, 3) of the origin of each thing's frame, in the camera's.
        local_normals: (F, 3) in the frame of the thing.
        normals: (F, 3) outward unit normals, in the camera frame.
        offsets: (F,) distances of the planes from the camera, along the normals.
        vertices: (V, 3) in the camera frame.
        thing_of_part: (P,).
        face_start: (P + 1,) number of each part's first plane, and F.
        vertex_start: (P + 1,) number of each part's first vertex, and V.
    """

    rotations: np.ndarray
    positions: np.ndarray
    local_normals: np.ndarray
    normals: np.ndarray
    offsets: np.ndarray
    vertices: np.ndarray
    thing_of_part: np.ndarray
    face_start: np.ndarray
    vertex_start: np.ndarray

    @classmethod
    def build(cls, things: Sequence[Furniture], eye: np.ndarray, turn: np.ndarray) -> Assembly:
        """The things as a camera at ``eye`` (3,) sees them; ``turn`` (3, 3) is from the room."""
        parts = [part for thing in things for part in thing.parts]
        thing_of_part = np.repeat(np.arange(len(things)), [len(thing.parts) for thing in things])
        faces = [len(part.normals) for part in parts]
        corners = [len(part.vertices) for part in parts]
        rotations = turn @ np.array([thing.rotation for thing in things])
        positions = (np.array([thing.position for thing in things]) - eye) @ turn.T
        of_face = np.repeat(thing_of_part, faces)
        of_vertex = np.repeat(thing_of_part, corners)
        local = np.concatenate([part.normals for part in parts])
        normals = np.einsum("fij,fj->fi", rotations[of_face], local)
        offsets = np.concatenate([part.offsets for part in parts])
        vertices = np.concatenate([part.vertices for part in parts])
        return cls(
            rotations,
            positions,
            local,
            normals,
            offsets + np.einsum("fi,fi->f", normals, positions[of_face]),
            np.einsum("vij,vj->vi", rotations[of_vertex], vertices) + positions[of_vertex],
            thing_of_part,
            np.cumsum([0, *faces]),
            np.cumsum([0, *corners]),
        )

    @property
    def part_of_face(self) -> np.ndarray:
        """(F,) number of the part that a plane belongs to."""
        return np.repeat(np.arange(len(self.thing_of_part)), np.diff(self.face_start))

    @property
    def thing_of_face(self) -> np.ndarray:
        """(F,) number of the thing that a plane belongs to."""
        return self.thing_of_part[self.part_of_face]


def shadow(
    points: np.ndarray, light: np.ndarray, assembly: Assembly, first: int = 1, margin: float = 0.02
) -> np.ndarray:
    """Which points a lamp does not reach.

    As in `pinhole`, with the lamp as origin: a ray from it has the point at w = 1, and is blocked
    if it enters a solid at some w > 1.

    Args:
        points: (N, 3) metres.
        light: (3,) position of the lamp, in the same frame.
        assembly: the solids. One that the lamp is in throws no shadow.
        first: number of the first thing that throws a shadow; walls do not.
        margin: metres before a point that are left free, so that a surface does not shade itself.

    Returns:
        (N,) bool.
    """
    ways = points - light
    squared = np.einsum("ij,ij->i", ways, ways)
    enough = 1 + margin / np.sqrt(squared).clip(1e-9)
    offsets = assembly.offsets - assembly.normals @ light
    planes, front = inverse_planes(assembly.normals, offsets).astype(np.float32), offsets < 0
    near = _near_segments(assembly, light, ways, squared)
    ways, enough = ways.astype(np.float32), enough.astype(np.float32)
    first_part = np.searchsorted(assembly.thing_of_part, np.arange(len(near) + 1))
    dark = np.zeros(len(points), bool)
    for thing in range(first, len(near)):
        rays = np.flatnonzero(near[thing] & ~dark)
        if not len(rays):
            continue
        starts = assembly.face_start[first_part[thing] : first_part[thing + 1] + 1]
        faces, starts = slice(starts[0], starts[-1]), starts[:-1] - starts[0]
        value = planes[faces] @ ways[rays].T
        ahead = front[faces][:, None]
        enter = np.minimum.reduceat(np.where(ahead, value, _FAR), starts, axis=0)
        leave = np.maximum.reduceat(np.where(ahead, _ZERO, value), starts, axis=0).clip(0)
        dark[rays] = ((enter > leave) & (enter > enough[rays]) & (enter < _FAR)).any(0)
    return dark


def _near_segments(
    assembly: Assembly, light: np.ndarray, ways: np.ndarray, squared: np.ndarray
) -> np.ndarray:
    """(T, N) whether the segment from the lamp along a way meets the sphere around a thing."""
    starts = assembly.vertex_start[
        np.searchsorted(assembly.thing_of_part, np.arange(len(assembly.rotations)))
    ]
    low = np.minimum.reduceat(assembly.vertices, starts)
    high = np.maximum.reduceat(assembly.vertices, starts)
    centre, reach = (low + high) / 2 - light, ((high - low) ** 2).sum(1) / 4
    along = centre @ ways.T
    share = (along / squared.clip(1e-12)).clip(0, 1)
    gap = (centre**2).sum(1)[:, None] - share * (2 * along - share * squared)
    return gap < reach[:, None]
