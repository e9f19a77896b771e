"""The picture of a room: which surface has which material, the lamps, and the camera."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from .appearance import Light, Materials, photograph, reflect, shade
from .assembly import Assembly, shadow
from .pinhole import SurfaceImage
from .room import Room

if TYPE_CHECKING:
    from .scenes import RoomOptions

__all__ = ["take_picture"]


def take_picture(
    rng: np.random.Generator,
    room: Room,
    eye: np.ndarray,
    turn: np.ndarray,
    assembly: Assembly,
    surfaces: SurfaceImage,
    normals: np.ndarray,
    options: RoomOptions,
) -> np.ndarray:
    """Draw materials, lamps and camera settings, and take the picture.

    Args:
        rng: source of randomness.
        room: its size is used.
        eye: (3,) position of the camera in the room.
        turn: (3, 3) rotation from the room to the camera.
        assembly: everything in the room; the first thing are the walls.
        surfaces: what is seen in each pixel.
        normals: (F, 3) float32, towards the side from which a plane is seen.
        options: settings of the scene.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    low, high = options.materials
    materials = Materials.draw(rng, int(rng.integers(low, high + 1)), options.nuisance)
    material = assign_materials(rng, assembly, len(materials.pattern))
    thing = assembly.thing_of_face
    maps = materials.texture_maps(
        material, assembly.local_normals, assembly.rotations[thing], assembly.positions[thing]
    )
    depth = surfaces.depth.astype(np.float32)
    points = surfaces.camera.rays().astype(np.float32) * depth[..., None]
    lights, ambient = draw_lights(rng, room, eye, turn)
    darkness = rng.uniform(0.5, 1.0)
    lit = np.ones(depth.shape, np.float32)
    if options.shadows:
        lit = 1 - darkness * soft_shadow(points, lights[0].position, assembly)
    face = surfaces.face
    radiance = shade(points, normals[face], turn[:, 2], lights, ambient, lit)
    radiance *= reflect(points, face, materials, material, maps, surfaces.camera.focal)
    return photograph(rng, radiance, options.nuisance)


def assign_materials(rng: np.random.Generator, assembly: Assembly, pool: int) -> np.ndarray:
    """The material (F,) of each plane, a number below ``pool``, whatever the thing is.

    Half of the things are of one material; of the others, half of the parts have their own. Floor
    and ceiling each have one, and mostly all four walls have the same.
    """
    of_part, of_thing = assembly.thing_of_part, np.arange(len(assembly.rotations))
    mixed = 0.5 * (rng.random(len(of_thing)) < 0.5)
    own = rng.random(len(of_part)) < mixed[of_part]
    material = np.where(
        own,
        rng.integers(0, pool, len(of_part)),
        rng.integers(0, pool, len(of_thing))[of_part],
    )[assembly.part_of_face]
    shell = slice(0, assembly.face_start[1])
    z = assembly.local_normals[shell, 2]
    floor, ceiling, walls = rng.integers(0, pool, 3)
    each = rng.integers(0, pool, len(z)) if rng.random() < 0.25 else np.full(len(z), walls)
    material[shell] = np.where(z < -0.5, floor, np.where(z > 0.5, ceiling, each))
    return material


def draw_lights(
    rng: np.random.Generator, room: Room, eye: np.ndarray, turn: np.ndarray
) -> tuple[list[Light], np.ndarray]:
    """One to three lamps below the ceiling, in the camera frame; the ambient light (3,)."""
    lights = []
    for _ in range(int(rng.integers(1, 4))):
        spot = rng.uniform(-0.42, 0.42, 3) * room.size
        spot[2] = room.size[2] * rng.uniform(0.7, 0.97)
        colour = rng.uniform(0.6, 1.0, 3) * rng.uniform(0.4, 1.4)
        lights.append(Light(turn @ (spot - eye), colour.astype(np.float32), rng.uniform(1.5, 5.0)))
    ambient = rng.uniform(0.15, 0.6) * rng.uniform(0.8, 1.0, 3)
    return lights, ambient.astype(np.float32)


def soft_shadow(points: np.ndarray, light: np.ndarray, assembly: Assembly) -> np.ndarray:
    """How much of a lamp is hidden (H, W) float32, found on a coarser grid and hence soft."""
    height, width = points.shape[:2]
    step = min(max(round(min(height, width) / 36), 1), 4)
    coarse = points[step // 2 :: step, step // 2 :: step]
    dark = shadow(coarse.reshape(-1, 3).astype(float), light, assembly)
    dark = dark.reshape(coarse.shape[:2]).astype(np.float32)
    return cv2.resize(cv2.blur(dark, (3, 3)), (width, height), interpolation=cv2.INTER_LINEAR)
