"""Generated indoor scenes with exact depth, surface normals, masks and boxes.

Only numpy, scipy and OpenCV are needed here; `rooms_dataset` makes an mmdet data set of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import cv2
import numpy as np

from ..ray_casting import Convex, box_vertices
from .appearance import Light, Materials, photograph, reflect, shade, shadow
from .furniture import CLASSES, CLUTTER, Furniture
from .layouts import SCENE_TYPES, Room, furnish
from .pinhole import PinholeCamera, SurfaceImage

__all__ = ["CLASSES", "SCENE_TYPES", "RoomOptions", "RoomScene", "render_room"]

# A prime for this random stream, so that no other generator uses the same (seed, index).
_STREAM = 15485863
_VIEWS = 24


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

    Raises:
        ValueError: a setting that cannot be met.
    """

    image_size: tuple[int, int] = (96, 128)
    focal: float = 0.81
    min_pixels: int = 16
    min_visible: float = 0.25
    materials: tuple[int, int] = (5, 12)
    shadows: bool = True

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
    scene_type = int(layout.integers(len(SCENE_TYPES)))
    room = furnish(layout, SCENE_TYPES[scene_type])
    eye, turn = choose_view(view, room)
    camera = PinholeCamera(options.image_size, options.focal * options.image_size[1])
    half = np.array(room.size) / 2
    shell = Convex.hull(box_vertices((-half[0], -half[1], 0), (half[0], half[1], room.size[2])))
    walls = Furniture(CLUTTER, [shell], room.size)
    return _render(look, [walls, *room.things], room, eye, turn, camera, scene_type, options)


def choose_view(rng: np.random.Generator, room: Room) -> tuple[np.ndarray, np.ndarray]:
    """A place to stand near a wall, from which furniture is seen.

    Returns:
        Position (3,) of the camera; rotation (3, 3) from the room's frame to the camera's.
    """
    targets = [t for t in room.things if t.label != CLUTTER]
    targets = np.array([t.point(0, 0, t.size[2] / 2) for t in targets or room.things])
    half = np.array(room.size[:2]) / 2
    best, best_score = None, -np.inf
    for _ in range(_VIEWS):
        spot = rng.uniform(-1, 1, 2) * (half - 0.3)
        if rng.random() < 0.8:  # near a wall
            axis = rng.integers(2)
            spot[axis] = rng.choice([-1, 1]) * (half[axis] - rng.uniform(0.25, 0.6))
        eye = np.array([*spot, rng.uniform(1.0, min(1.95, room.size[2] - 0.3))])
        away = targets - eye
        target = away[rng.integers(len(away))] + rng.normal(0, (0.4, 0.4, 0.2))
        yaw = math.atan2(target[1], target[0])
        flat = math.hypot(target[0], target[1])
        pitch = min(max(math.atan2(target[2], max(flat, 0.5)), -0.65), 0.12)
        turn = _rotation(yaw, pitch, rng.normal(0, 0.03))
        seen = away @ turn.T
        ahead = (-seen[:, 2] > 0.9) & (np.abs(seen[:, 0]) < -0.55 * seen[:, 2])
        clear = min((_clearance(spot, corners) for corners in room.footprints), default=9.0)
        score = ahead.sum() + 2.5 * rng.random() + 100 * min(clear - 0.35, 0.0)
        if score > best_score:
            best, best_score = (eye, turn), score
    return best


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """From a frame with z up to the camera's; yaw from x to y, pitch upwards, in radians."""
    ahead = np.array(
        [math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), math.sin(pitch)]
    )
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    up = np.cross(right, ahead)
    cos, sin = math.cos(roll), math.sin(roll)
    return np.stack([cos * right + sin * up, cos * up - sin * right, -ahead])


def _clearance(point: np.ndarray, corners: np.ndarray) -> float:
    """Distance of a point (2,) from a rectangle (4, 2), negative inside it."""
    centre, sides = corners.mean(0), corners[1:3] - corners[:2]
    lengths = np.maximum(np.linalg.norm(sides, axis=1), 1e-9)
    offset = np.abs((point - centre) @ (sides / lengths[:, None]).T) - lengths / 2
    return float(np.linalg.norm(offset.clip(0)) + min(offset.max(), 0.0))


def _render(
    rng: np.random.Generator,
    things: list[Furniture],
    room: Room,
    eye: np.ndarray,
    turn: np.ndarray,
    camera: PinholeCamera,
    scene_type: int,
    options: RoomOptions,
) -> RoomScene:
    """The scene; ``things[0]`` are the walls."""
    surfaces = SurfaceImage(camera)
    placed: list[list[Convex]] = []
    alone: list[np.ndarray | None] = []
    for number, thing in enumerate(things):
        rotation, position = turn @ thing.rotation, turn @ (thing.position - eye)
        parts = [part.moved(rotation, position) for part in thing.parts]
        placed.append(parts)
        if number == 0:
            surfaces.add_room(parts[0])
            alone.append(None)
            continue
        mask = None if thing.label == CLUTTER else np.zeros(camera.image_size, bool)
        for part in parts:
            surfaces.add(part, mask)
        alone.append(mask)

    counts = np.array([[len(part.normals) for part in thing.parts] for thing in things], object)
    per_part = np.array([k for row in counts for k in row])
    thing_of_part = np.repeat(np.arange(len(things)), [len(row) for row in counts])
    part_of_face = np.repeat(np.arange(len(per_part)), per_part)
    thing_of_face = thing_of_part[part_of_face]
    normals = np.concatenate([part.normals for parts in placed for part in parts])
    normals[: per_part[0]] *= -1  # walls are seen from inside
    normals = normals.astype(np.float32)

    image = _picture(
        rng,
        things,
        placed,
        surfaces,
        normals,
        thing_of_part,
        part_of_face,
        room,
        eye,
        turn,
        options,
    )
    return RoomScene(
        image=image,
        depth=surfaces.depth.astype(np.float32),
        face=surfaces.face.astype(np.uint16),
        face_normals=normals,
        scene_type=scene_type,
        **_objects(things, alone, thing_of_face[surfaces.face], options),
    )


def _objects(
    things: list[Furniture], alone: list[np.ndarray | None], seen: np.ndarray, options: RoomOptions
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


def _picture(
    rng: np.random.Generator,
    things: list[Furniture],
    placed: list[list[Convex]],
    surfaces: SurfaceImage,
    normals: np.ndarray,
    thing_of_part: np.ndarray,
    part_of_face: np.ndarray,
    room: Room,
    eye: np.ndarray,
    turn: np.ndarray,
    options: RoomOptions,
) -> np.ndarray:
    """The picture (H, W, 3) uint8 BGR."""
    materials = Materials.draw(
        rng, int(rng.integers(options.materials[0], options.materials[1] + 1))
    )
    pool = len(materials.pattern)
    of_thing = rng.integers(0, pool, len(things))
    own = (
        rng.random(len(thing_of_part))
        < np.where(rng.random(len(things)) < 0.5, 0.0, 0.5)[thing_of_part]
    )
    of_part = np.where(own, rng.integers(0, pool, len(thing_of_part)), of_thing[thing_of_part])
    material = of_part[part_of_face]
    # Floor, ceiling and walls; often all four walls are alike.
    shell = rng.integers(0, pool, 3)[np.array([0, 0, 1, 2, 0, 0])]
    local = np.concatenate([part.normals for thing in things for part in thing.parts])
    sides = np.abs(local[:6, 2]) < 0.5
    material[:6][sides] = shell[0] if rng.random() < 0.75 else rng.integers(0, pool, 4)
    material[:6][local[:6, 2] < -0.5] = shell[2]
    material[:6][local[:6, 2] > 0.5] = shell[3]

    thing_of_face = thing_of_part[part_of_face]
    rotations = np.array([turn @ thing.rotation for thing in things])[thing_of_face]
    positions = np.array([turn @ (thing.position - eye) for thing in things])[thing_of_face]
    maps = materials.texture_maps(material, local, rotations, positions)

    depth, face = surfaces.depth.astype(np.float32), surfaces.face
    points = surfaces.rays.astype(np.float32) * depth[..., None]
    lights, ambient = _lights(rng, room, eye, turn)
    lit = np.ones(depth.shape, np.float32)
    if options.shadows:
        lit = _lit(points, lights[0].position, placed[1:], darkness=rng.uniform(0.5, 1.0))
    radiance = shade(points, normals[face], turn[:, 2], lights, ambient, lit)
    radiance *= reflect(points, face, materials, material, maps, surfaces.camera.focal)
    return photograph(rng, radiance)


def _lights(
    rng: np.random.Generator, room: Room, eye: np.ndarray, turn: np.ndarray
) -> tuple[list[Light], np.ndarray]:
    """One to three lamps below the ceiling, and the ambient light (3,)."""
    lights = []
    for _ in range(int(rng.integers(1, 4))):
        spot = rng.uniform(-0.42, 0.42, 3) * room.size
        spot[2] = room.size[2] * rng.uniform(0.7, 0.97)
        colour = rng.uniform(0.6, 1.0, 3) * rng.uniform(0.4, 1.4)
        lights.append(Light(turn @ (spot - eye), colour.astype(np.float32), rng.uniform(1.5, 5.0)))
    ambient = rng.uniform(0.15, 0.6) * rng.uniform(0.8, 1.0, 3)
    return lights, ambient.astype(np.float32)


def _lit(
    points: np.ndarray, light: np.ndarray, objects: list[list[Convex]], darkness: float
) -> np.ndarray:
    """Share of a lamp that reaches each pixel (H, W), at half resolution at most, hence soft."""
    height, width = points.shape[:2]
    step = max(2, round(width / 64))
    coarse = points[step // 2 :: step, step // 2 :: step]
    dark = shadow(coarse.reshape(-1, 3).astype(float), light, objects).reshape(coarse.shape[:2])
    lit = 1 - darkness * dark.astype(np.float32)
    return cv2.resize(cv2.blur(lit, (3, 3)), (width, height), interpolation=cv2.INTER_LINEAR)
