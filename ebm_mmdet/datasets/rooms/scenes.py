"""Generated indoor scenes with exact depth, surface normals, masks and boxes.

Only numpy, scipy and OpenCV are needed here; `rooms_dataset` makes an mmdet data set of it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from ..ray_casting import Convex
from .assembly import Assembly
from .furniture import CLASSES, CLUTTER, Furniture
from .layouts import SCENE_TYPES, draw_scene_type, furnish
from .picture import take_picture
from .pinhole import PinholeCamera, SurfaceImage, inverse_planes
from .view import choose_view

__all__ = ["CLASSES", "SCENE_TYPES", "RoomOptions", "RoomScene", "render_room"]

VERSION = 1
"""Grows with every change of what `render_room` gives for the same arguments."""

# A prime for this random stream, so that no other generator uses the same (seed, index).
_STREAM = 15485863


@dataclass(frozen=True)
class RoomOptions:
    """Settings of the random scenes.

    Attributes:
        image_size: (height, width) in pixels.
        focal: focal length as a fraction of the image's width; 0.81 is that of NYUv2's camera.
        min_pixels: an object that is visible in fewer pixels is ignored.
        min_visible: an object of whose pixels a smaller share is visible, the rest being hidden by
            other objects, is ignored. What is outside the image does not count as hidden.
        materials: smallest and largest number of materials of a room. With fewer, more things look
            like what is behind them.
        shadows: whether one lamp throws shadows.
        nuisance: in [0, 1], a factor on the contrast of patterns and on the variety of exposure,
            white balance, gamma, blur and noise; small networks and short schedules want less.

    Raises:
        ValueError: a setting that cannot be met.
    """

    image_size: tuple[int, int] = (96, 128)
    focal: float = 0.81
    min_pixels: int = 16
    min_visible: float = 0.25
    materials: tuple[int, int] = (5, 12)
    shadows: bool = True
    nuisance: float = 1.0

    def __post_init__(self) -> None:
        height, width = self.image_size
        if height < 1 or width < 1:
            raise ValueError(f"image_size={self.image_size}; expected (height, width), at least 1")
        if not self.focal > 0:
            raise ValueError(f"focal={self.focal}; expected a positive fraction of the width")
        if self.min_pixels < 1 or not 0 <= self.min_visible <= 1:
            raise ValueError(
                f"min_pixels={self.min_pixels}, min_visible={self.min_visible}; expected at least "
                "one pixel and a share in [0, 1]"
            )
        if not 0 <= self.nuisance <= 1:
            raise ValueError(f"nuisance={self.nuisance}; expected a factor in [0, 1]")
        if not 3 <= self.materials[0] <= self.materials[1]:
            raise ValueError(
                f"materials={self.materials}; expected (smallest, largest), at least 3"
            )

    @classmethod
    def from_config(cls, config: dict | None) -> RoomOptions:
        """The options from a dictionary; lists count as tuples.

        Raises:
            TypeError: an option that does not exist.
        """
        config = dict(config or {})
        known = {field.name for field in fields(cls)}
        if unknown := sorted(config.keys() - known):
            raise TypeError(f"unknown options {unknown}; expected some of {sorted(known)}")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})


@dataclass(frozen=True)
class RoomScene:
    """A picture of a room, and what is true of it.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        depth: (H, W) float32 metres along the optical axis, of the centre of each pixel.
        face: (H, W) uint16, the plane that is seen, a row of ``face_normals``.
        face_normals: (F, 3) float32 unit vectors in the camera frame: x to the right, y up, z
            towards the viewer.
        instance: (H, W) uint8, number of the object that is seen, from 1 on; 0 for none. Object k
            is row k - 1 of the following.
        boxes: (n, 4) float32, half-open xyxy pixels: the tightest around the visible pixels.
        labels: (n,) int64 into `CLASSES`.
        ignored: (n,) bool, see `RoomOptions`.
        visible: (n,) share of an object's pixels that no other object hides, in (0, 1].
        scene_type: index into `SCENE_TYPES`.
    """

    image: np.ndarray
    depth: np.ndarray
    face: np.ndarray
    face_normals: np.ndarray
    instance: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    visible: np.ndarray
    scene_type: int

    @property
    def normals(self) -> np.ndarray:
        """Surface normals (H, W, 3) float32."""
        return self.face_normals[self.face]

    @property
    def masks(self) -> np.ndarray:
        """Visible pixels (n, H, W) of the objects, uint8 0 or 1."""
        numbers = np.arange(1, len(self.labels) + 1)[:, None, None]
        return (self.instance == numbers).astype(np.uint8)


def render_room(seed: int, index: int, options: RoomOptions | None = None) -> RoomScene:
    """Generate scene ``index`` of the endless set ``seed``; equal arguments give the same scene.

    The room and the view of it do not depend on the options.

    Args:
        seed: number of the set, ``>= 0``.
        index: number of the scene in the set, ``>= 0``.
        options: settings of the scene.

    Raises:
        ValueError: negative seed or index.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be >= 0, got seed={seed}, index={index}")
    options = options or RoomOptions()
    layout, view, look = (np.random.default_rng([_STREAM, seed, index, k]) for k in range(3))
    scene_type = draw_scene_type(layout)
    room = furnish(layout, scene_type)
    eye, turn = choose_view(view, room)
    things = [room.shell(), *room.things]
    assembly = Assembly.build(things, eye, turn)
    surfaces = SurfaceImage(
        PinholeCamera(options.image_size, options.focal * options.image_size[1])
    )
    alone = _cast(surfaces, assembly, [thing.label for thing in things])
    normals = assembly.normals.astype(np.float32)
    normals[: assembly.face_start[1]] *= -1  # walls are seen from inside
    return RoomScene(
        image=take_picture(look, room, eye, turn, assembly, surfaces, normals, options),
        depth=surfaces.depth.astype(np.float32),
        face=surfaces.face.astype(np.uint16),
        face_normals=normals,
        scene_type=SCENE_TYPES.index(scene_type),
        **_objects(things, alone, assembly.thing_of_face[surfaces.face], options),
    )


def _cast(surfaces: SurfaceImage, assembly: Assembly, labels: list[int]) -> list[np.ndarray]:
    """Add all parts; for each thing, the pixels (H, W) in which it would be seen alone."""
    start = assembly.face_start
    walls = slice(start[0], start[1])
    corners = assembly.vertices[: assembly.vertex_start[1]]
    surfaces.add_room(Convex(corners, assembly.normals[walls], assembly.offsets[walls]))
    windows = surfaces.camera.windows(assembly.vertices, assembly.vertex_start[:-1])
    planes, front = inverse_planes(assembly.normals, assembly.offsets), assembly.offsets < 0
    alone = [np.zeros(surfaces.face.shape, bool) for _ in labels]
    windows[0] = 0  # the walls are added
    for part in np.flatnonzero(windows[:, 1]):
        faces, thing = slice(start[part], start[part + 1]), assembly.thing_of_part[part]
        mask = None if labels[thing] == CLUTTER else alone[thing]
        surfaces.add(planes[faces], front[faces], windows[part], start[part], mask)
    return alone


def _objects(
    things: list[Furniture], alone: list[np.ndarray], seen: np.ndarray, options: RoomOptions
) -> dict:
    """The objects of which a pixel is visible; ``seen`` (H, W) is the row of ``things``."""
    pixels = np.bincount(seen.reshape(-1), minlength=len(things))
    kept = [k for k, t in enumerate(things) if t.label != CLUTTER and pixels[k]][:255]
    number = np.zeros(len(things), np.uint8)
    number[kept] = np.arange(1, len(kept) + 1)
    boxes = np.zeros((len(kept), 4), np.float32)
    for row, k in enumerate(kept):
        mask = seen == k
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes[row] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
    visible = np.array([pixels[k] / max(alone[k].sum(), 1) for k in kept], np.float64)
    few = np.array([pixels[k] < options.min_pixels for k in kept], bool)
    return {
        "instance": number[seen],
        "boxes": boxes,
        "labels": np.array([things[k].label for k in kept], np.int64),
        "visible": visible,
        "ignored": few | (visible < options.min_visible),
    }
