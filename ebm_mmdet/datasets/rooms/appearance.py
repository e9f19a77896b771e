"""Colours, patterns and light of a generated room.

Every surface takes its material from the same small pool, whatever it belongs to, so that a colour
or a pattern says nothing about a class, and things often look like what is behind them.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["Light", "Materials", "photograph", "reflect", "shade"]

_TILE = 64  # texels along the side of a pattern, a power of two
_NUM_PATTERNS = 32


@functools.lru_cache(maxsize=1)
def patterns() -> np.ndarray:
    """The patterns (P, 64, 64), float32 in [0, 1], each repeating in both directions."""
    rng = np.random.default_rng(314159)
    row, column = np.mgrid[:_TILE, :_TILE] * (2 * math.pi / _TILE)
    tiles = []
    for number in range(_NUM_PATTERNS):
        kind = number % 8
        coarse = rng.standard_normal((rng.integers(3, 9), rng.integers(3, 9)), dtype=np.float32)
        coarse = np.pad(coarse, 2, mode="wrap")  # so that the resized noise repeats
        step = [_TILE / (n - 4) for n in coarse.shape]
        size = [round(n * s) for n, s in zip(coarse.shape, step)]
        noise = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
        edge = [round(2 * s) for s in step]
        noise = noise[edge[0] : edge[0] + _TILE, edge[1] : edge[1] + _TILE]
        a, b = rng.integers(1, 6, 2)
        if kind == 0:
            value = np.zeros((_TILE, _TILE))
        elif kind == 1:  # stripes
            value = np.sign(np.sin(a * column + 0.3))
        elif kind == 2:  # soft stripes, distorted like the grain of wood
            value = np.sin(a * column + 1.2 * noise)
        elif kind == 3:  # checks
            value = np.sign(np.sin(a * column) * np.sin(a * row))
        elif kind == 4:  # plaid
            value = np.sin(a * column) + np.sin(b * row) + 0.4 * np.sign(np.sin(9 * column))
        elif kind == 5:  # dots
            value = np.sign(np.cos(a * column) + np.cos(a * row) - 0.6)
        elif kind == 6:  # spots
            value = 1.2 * noise
        else:  # grain
            value = rng.standard_normal((_TILE, _TILE))
        tiles.append(np.clip(0.5 + 0.35 * value, 0, 1))
    return np.array(tiles, np.float32)


@dataclass(frozen=True)
class Materials:
    """A pool of materials.

    Attributes:
        colours: (M, 2, 3) float32, the two BGR reflectances in [0, 1] that a pattern mixes.
        pattern: (M,) index into `patterns`.
        scale: (M,) texels per metre.
        turn: (M,) radians by which the pattern is turned on its surface.
    """

    colours: np.ndarray
    pattern: np.ndarray
    scale: np.ndarray
    turn: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, number: int, contrast: float = 1.0) -> Materials:
        """Draw ``number`` materials.

        Args:
            rng: source of randomness.
            number: M.
            contrast: of the patterns, in [0, 1]; 0 makes every material plain.
        """
        hsv = rng.uniform((0, 0.0, 0.15), (360, 1.0, 0.95), (number, 3))
        hsv[:, 1] = hsv[:, 1] ** 2 * 0.8  # most things of a room are hardly coloured
        second = hsv + rng.normal(0, (12, 0.06, 0.17), (number, 3))
        second[:, 1:] = second[:, 1:].clip(0.0, 0.95)
        second[:, 0] %= 360
        both = np.stack([hsv, second], axis=1).astype(np.float32)
        colours = cv2.cvtColor(both, cv2.COLOR_HSV2BGR)
        if contrast < 1:  # towards the first colour
            colours[:, 1] = colours[:, 0] + contrast * (colours[:, 1] - colours[:, 0])
        return cls(
            colours,
            rng.integers(0, _NUM_PATTERNS, number),
            _TILE / rng.uniform(0.15, 1.2, number),
            rng.choice([0.0, 0.0, math.pi / 2, math.pi / 4], number) + rng.normal(0, 0.05, number),
        )

    def texture_maps(
        self,
        material: np.ndarray,
        normals: np.ndarray,
        rotation: np.ndarray,
        position: np.ndarray,
    ) -> np.ndarray:
        """Affine maps from points in the camera frame to coordinates on patterns.

        Args:
            material: (F,) of each face.
            normals: (F, 3) in the frame of the object that the pattern sticks to.
            rotation: (F, 3, 3) from that frame to the camera's.
            position: (F, 3) of its origin in the camera's frame.

        Returns:
            (F, 2, 4) float32: texel = map[..., :3] @ point + map[..., 3].
        """
        flat = np.abs(normals[:, 2]) > 0.8
        along = np.where(
            flat[:, None],
            (1.0, 0.0, 0.0),
            np.stack([-normals[:, 1], normals[:, 0], 0 * normals[:, 0]], 1),
        )
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        across = np.cross(normals, along)
        cos, sin = np.cos(self.turn[material])[:, None], np.sin(self.turn[material])[:, None]
        axes = np.stack([cos * along + sin * across, cos * across - sin * along], axis=1)
        axes = np.einsum("fij,fkj->fki", rotation, axes * self.scale[material][:, None, None])
        start = -np.einsum("fkj,fj->fk", axes, position)
        return np.concatenate([axes, start[..., None]], axis=2).astype(np.float32)


@dataclass(frozen=True)
class Light:
    """A lamp in the camera frame, ``position`` (3,); BGR ``colour`` (3,); falloff in metres."""

    position: np.ndarray
    colour: np.ndarray
    reach: float


def shade(
    points: np.ndarray,
    normals: np.ndarray,
    up: np.ndarray,
    lights: list[Light],
    ambient: np.ndarray,
    lit: np.ndarray,
) -> np.ndarray:
    """Light that arrives at surfaces.

    Args:
        points: (H, W, 3) float32 metres in the camera frame.
        normals: (H, W, 3) float32.
        up: (3,) the vertical in the camera frame.
        lights: lamps; the light of one falls with the cosine of incidence and with
            1 / (1 + (d / reach)²) of the distance d.
        ambient: (3,) BGR light from everywhere, a little more from above.
        lit: (H, W) float32 in [0, 1], the share of the first lamp that reaches the point.

    Returns:
        (H, W, 3) float32 BGR.
    """
    total = ambient * (0.8 + 0.2 * (normals @ up.astype(np.float32)))[..., None]
    for number, light in enumerate(lights):
        way = light.position.astype(np.float32) - points
        squared = np.einsum("ijk,ijk->ij", way, way)
        cosine = np.einsum("ijk,ijk->ij", way, normals) / np.sqrt(squared)
        strength = cosine.clip(0) / (1 + squared / light.reach**2)
        if number == 0:
            strength = strength * lit
        total = total + strength[..., None] * light.colour
    return total.astype(np.float32)


def reflect(
    points: np.ndarray,
    face: np.ndarray,
    materials: Materials,
    material: np.ndarray,
    maps: np.ndarray,
    focal: float,
) -> np.ndarray:
    """Reflectance (H, W, 3) float32 BGR of the surfaces that are seen.

    Args:
        points: (H, W, 3) float32 metres in the camera frame.
        face: (H, W) number of the face seen.
        materials: the pool.
        material: (F,) of each face.
        maps: (F, 2, 4) of each face, see `Materials.texture_maps`.
        focal: in pixels; patterns finer than a pixel fade to their mean.
    """
    chosen = material[face]
    texel = np.einsum("ijkl,ijl->ijk", maps[face, :, :3], points) + maps[face, :, 3]
    column, row = np.moveaxis(np.floor(texel).astype(np.int32) & (_TILE - 1), -1, 0)
    value = patterns()[materials.pattern[chosen], row, column]
    texels_per_pixel = materials.scale[chosen].astype(np.float32) * -points[..., 2] / focal
    value = 0.5 + (value - 0.5) * np.minimum(1.0, 4.0 / texels_per_pixel)
    colours = materials.colours[chosen]
    return colours[..., 0, :] + value[..., None] * (colours[..., 1, :] - colours[..., 0, :])


def photograph(rng: np.random.Generator, radiance: np.ndarray, nuisance: float = 1.0) -> np.ndarray:
    """The image (H, W, 3) uint8 of a radiance: exposure, white balance, blur, noise.

    Args:
        rng: source of randomness.
        radiance: (H, W, 3) float32 BGR.
        nuisance: factor on the ranges of all four, in [0, 1].
    """

    def uniform(centre: float, spread: float) -> float:
        return centre + nuisance * rng.uniform(-spread, spread)

    exposure = uniform(0.36, 0.14) / max(float(radiance.mean()), 1e-6)
    balance = rng.normal(1.0, nuisance * 0.06, 3)
    image = (radiance * (exposure * balance).astype(np.float32)).clip(0, None)
    image = image / (1 + 0.25 * image)  # highlights are compressed
    sigma = (0.3 + nuisance * rng.uniform(0, 0.6)) * max(1.0, radiance.shape[1] / 320)
    image = cv2.GaussianBlur(image, (0, 0), sigma)
    image = 255 * image ** (1 / uniform(2.0, 0.4))
    image += (1.0 + nuisance * rng.uniform(0, 7.0)) * rng.standard_normal(
        image.shape, dtype=np.float32
    )
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
