"""Cells under a fluorescence microscope: how many are there, if some may hide a twin?

A field shows k discs. What a label counts beside them cannot be seen, so that the density of the
label given the image is known. All labels carry noise N(0, 0.5²), except those of ``hard``.

=========  ==========================================================  =========================
variant    label                                                       density
=========  ==========================================================  =========================
``a``      k                                                           one peak
``b``      k + Bin(k, 0.3): every cell hides a twin, with chance 0.3   skewed, one peak
``c``      2k with chance 0.3, else k: all cells hide a twin, or none  **two peaks**
``hard``   1 to 200 overlapping cells, exact count                     not known
=========  ==========================================================  =========================
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from ..truth import MixtureTruth
from .imaging import add_discs, pixel_grid, smooth_noise
from .task import SIZE, GeneratedTask

__all__ = ["CELLS", "render"]

MAX_CELLS = 40
MAX_HARD_CELLS = 200
LABEL_NOISE = 0.5
TWIN_CHANCE = 0.3
MIN_DISTANCE = 6.0
"""Smallest distance of two centres in pixels: no two discs touch, so that k can be read."""
_MARGIN = 3.5
_PSF = 0.8


def _describe(variant: str) -> dict:
    # Eight standard deviations of the label noise lie between the labels and the range.
    largest = {"a": MAX_CELLS, "hard": MAX_HARD_CELLS}.get(variant, 2 * MAX_CELLS)
    hard = variant == "hard"
    return {
        "names": ("count",),
        "units": ("cells",),
        "ranges": ((1.0, float(largest)),) if hard else ((-3.0, largest + 4.0),),
        "periods": (None,),
        "flip_signs": (1.0,),
        "integer": hard,
    }


def _draw(rng: np.random.Generator, variant: str) -> dict:
    most = MAX_HARD_CELLS if variant == "hard" else MAX_CELLS
    return {"variant": variant, "count": int(rng.integers(1, most + 1))}


@lru_cache(maxsize=MAX_CELLS)
def _binomial(n: int) -> np.ndarray:
    """Probabilities ``(n + 1,)`` of Bin(n, 0.3)."""
    steps = np.arange(n)
    log_choose = np.concatenate([[0], np.cumsum(np.log(n - steps) - np.log(steps + 1))])
    k = np.arange(n + 1)
    return np.exp(log_choose + k * np.log(TWIN_CHANCE) + (n - k) * np.log1p(-TWIN_CHANCE))


def _truth(latent: dict) -> MixtureTruth | None:
    k = latent["count"]
    if latent["variant"] == "a":
        return MixtureTruth.of([1.0], [[k]], LABEL_NOISE)
    if latent["variant"] == "b":
        return MixtureTruth.of(_binomial(k), k + np.arange(k + 1)[:, None], LABEL_NOISE)
    if latent["variant"] == "c":
        return MixtureTruth.of([1 - TWIN_CHANCE, TWIN_CHANCE], [[k], [2 * k]], LABEL_NOISE)
    return None


def _place(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw centres ``(count, 2)`` in pixels, no two closer than `MIN_DISTANCE`."""
    candidates = 60 + 4 * count
    while True:
        points = rng.uniform(_MARGIN, SIZE - _MARGIN, (candidates, 2))
        offsets = points[:, None] - points[None]
        near = (offsets * offsets).sum(-1) < MIN_DISTANCE**2
        blocked = np.zeros(candidates, bool)
        chosen: list[int] = []
        for i in range(candidates):
            if not blocked[i]:
                chosen.append(i)
                if len(chosen) == count:
                    return points[chosen]
                blocked |= near[i]


def _paint(latent: dict, rng: np.random.Generator) -> np.ndarray:
    count, hard = latent["count"], latent["variant"] == "hard"
    if hard:
        centres = rng.uniform(1, SIZE - 1, (count, 2))
        radius = np.clip(rng.normal(2.6, 0.5, count), 1.2, 4.2)
        spread = 0.35
    else:
        centres = _place(rng, count)
        radius = np.clip(rng.normal(2.2, 0.3, count), 1.4, 2.9)
        spread = 0.25
    brightness = np.exp(spread * rng.standard_normal(count))
    discs = np.zeros((SIZE, SIZE), np.float32)
    add_discs(discs, centres[:, 0], centres[:, 1], radius, brightness)
    cells = cv2.GaussianBlur(discs, (0, 0), _PSF + float(rng.uniform(0, 0.25)))
    # Light in photons: cells on a sloped, uneven background.
    x, y = pixel_grid()
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.12)
    background = 0.1 + rng.uniform(0, 0.12) + 0.015 * smooth_noise(rng, 5)
    background += slope * ((x - 32) * np.cos(angle) + (y - 32) * np.sin(angle)) / SIZE
    photons = rng.uniform(120, 260)
    light = np.maximum(cells * rng.uniform(0.75, 1.1) + background, 0) * photons
    # Shot noise by its normal approximation, which is close at tens of photons and much faster.
    counts = light + np.sqrt(light) * rng.standard_normal(light.shape, dtype=np.float32)
    counts += 2.0 * rng.standard_normal(light.shape, dtype=np.float32)
    # A long exposure of a crowded field would saturate.
    gain = rng.uniform(60, 85) / photons if hard else rng.uniform(130, 180) / photons
    return np.clip(np.rint(counts * gain), 0, 255).astype(np.uint8)


CELLS = GeneratedTask(
    name="cells",
    variants=("c", "a", "b", "hard"),
    describe=_describe,
    draw=_draw,
    paint=_paint,
    truth=_truth,
    exact=lambda latent: [latent["count"]],
)
render = CELLS.render
