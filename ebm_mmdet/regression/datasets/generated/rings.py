"""A section of a tree, part of which was sawn off: how old was the tree?

k rings can be seen, and a straight cut of the relative depth c in [0, 1] says how much of the
outer wood is lost. The age is ``k + Poisson(6 c)`` years, an integer: skewed, and the deeper the
cut, the less certain.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from ..truth import IntegerTruth
from .imaging import camera, pixel_grid, smooth_noise
from .task import GeneratedTask

__all__ = ["RINGS", "render"]

FEWEST, MOST = 3, 10
"""Rings that can be seen. More of them would be less than two pixels wide."""
LOST_PER_DEPTH = 6.0
_LARGEST = 50  # P(Poisson(6) > 38) is 1e-17
_DEEPEST = 0.55  # of the radius


def _describe(variant: str) -> dict:
    return {
        "names": ("age",),
        "units": ("years",),
        "ranges": ((float(FEWEST), float(_LARGEST)),),
        "periods": (None,),
        "flip_signs": (1.0,),
        "integer": True,
    }


def _draw(rng: np.random.Generator, variant: str) -> dict:
    return {"rings": int(rng.integers(FEWEST, MOST + 1)), "cut": float(rng.random())}


def _truth(latent: dict) -> IntegerTruth:
    rate = LOST_PER_DEPTH * latent["cut"]
    lost = np.arange(_LARGEST - latent["rings"] + 1)
    log_factorial = np.array([math.lgamma(n + 1) for n in lost])
    probs = np.exp(lost * math.log(max(rate, 1e-300)) - rate - log_factorial)
    return IntegerTruth(latent["rings"], probs / probs.sum())


def _paint(latent: dict, rng: np.random.Generator) -> np.ndarray:
    x, y = pixel_grid()
    k, radius = latent["rings"], rng.uniform(25.5, 28.5)
    centre = 32 + rng.uniform(-1.5, 1.5, 2)
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    distance = np.sqrt(dx * dx + dy * dy)
    angle = np.arctan2(dy, dx)
    # Rings are not quite round, the same way at every radius.
    wobble = sum(
        rng.uniform(0, 0.03) * np.cos(n * angle + rng.uniform(0, 2 * np.pi)) for n in (2, 3, 5)
    )
    share = distance / (radius * (1 + wobble))  # 0 at the pith, 1 at the rim
    pixel = 1 / radius
    # Widths of the rings vary, with the last dark line at the rim.
    widths = rng.uniform(0.85, 1.15, k)
    ends = np.cumsum(widths) / widths.sum()
    ring = np.searchsorted(ends, share.ravel()).reshape(share.shape).clip(0, k - 1)
    starts = np.concatenate([[0], ends[:-1]])
    inside = ((share - starts[ring]) / (ends - starts)[ring]).clip(0, 1)
    # Early wood is light and turns to dark late wood, which ends at a sharp, anti-aliased edge.
    after, before = (share - starts[ring]) * radius, (ends[ring] - share) * radius
    dark = inside**3 * np.clip(before + 0.5, 0, 1) + np.clip(0.5 - after, 0, 1) * (ring > 0)
    light_wood = np.array([0.5, 0.7, 0.86]) + rng.uniform(-0.05, 0.05, 3)
    dark_wood = np.array([0.16, 0.3, 0.46]) + rng.uniform(-0.05, 0.05, 3)
    grain = 0.02 * smooth_noise(rng, 28) + 0.03 * smooth_noise(rng, 6)
    wood = light_wood + (dark_wood - light_wood) * dark[..., None] + grain[..., None]
    for _ in range(int(rng.integers(0, 3))):  # cracks from the pith
        towards = rng.uniform(-np.pi, np.pi)
        off = np.abs(np.cos(towards) * dy - np.sin(towards) * dx)
        along = np.cos(towards) * dx + np.sin(towards) * dy
        length = rng.uniform(0.25, 0.7) * radius
        crack = np.clip(0.9 - off, 0, 1) * ((along > 0) & (along < length))
        wood *= 1 - 0.55 * crack[..., None]
    # The saw: everything beyond a chord is gone.
    direction = rng.uniform(0, 2 * np.pi)
    chord = radius * (1 - _DEEPEST * latent["cut"])
    beyond = np.cos(direction) * dx + np.sin(direction) * dy - chord
    cover = np.clip((1 - share) / pixel + 0.5, 0, 1) * np.clip(0.5 - beyond, 0, 1)
    ground = rng.uniform(0.75, 0.95) + 0.03 * smooth_noise(rng, 5)[..., None]
    tint = 1 + rng.uniform(-0.04, 0.04, 3)
    shadow = cv2.GaussianBlur(cover.astype(np.float32), (0, 0), 2.5)
    shadow = np.roll(shadow, (1, 1), axis=(0, 1))[..., None]
    table = ground * tint * (1 - 0.4 * shadow)
    image = (table + (wood - table) * cover[..., None]).astype(np.float32)
    return camera(image, rng, blur=(0.0, 0.45), noise=0.02)


RINGS = GeneratedTask(
    name="rings",
    variants=("sawn",),
    describe=_describe,
    draw=_draw,
    paint=_paint,
    truth=_truth,
)
render = RINGS.render
