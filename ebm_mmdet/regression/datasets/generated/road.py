"""A road seen from a car: at what angle is the steering wheel? Forks and fog make it uncertain.

The centre line on the ground is ``x(z) = x0 + psi z + kappa z² / 2``, in metres, at the distance
``z``. The angle of the wheel is ``y = a kappa + N(0, s²)`` degrees, with ``s = 1° (1 + 60 m / d)``
for the visible range ``d``: the thicker the fog, the less certain is the angle. 30 % of the roads
fork, and then the car follows the left branch with probability 0.6. The wheel's angles of the two
branches differ by 36° and by 10 s at least, so that their mean leads off the road. Angles and
curvatures to the right are positive.

The variants ``plain`` and ``fork`` have only one kind of road.
"""

from __future__ import annotations

import cv2
import numpy as np

from ..truth import MixtureTruth
from .imaging import camera, smooth_noise
from .task import SIZE, GeneratedTask

__all__ = ["ROAD", "render", "steering_noise"]

WHEEL_PER_CURVATURE = 16 * 2.7 * 180 / np.pi
"""Degrees of the wheel times metres: a steering ratio of 16 and a wheelbase of 2.7 m."""
MAX_ANGLE = 60.0
FORK_CHANCE = 0.3
LEFT_CHANCE = 0.6
MIN_FORK_ANGLE = 36.0
_NEAREST_FOG, _FARTHEST_FOG = 40.0, 250.0
_FOCAL = 60.0  # pixels
_HEIGHT = 4.5  # of the camera, on the roof of a lorry, metres
_HORIZON = 13.0  # row
_HALF_WIDTH = 2.2  # of the road, metres
_LINE = 0.08  # half the width of a painted line, metres
_SUPERSAMPLING = 2  # rows; columns are anti-aliased in closed form


def steering_noise(visible_range: float) -> float:
    """Standard deviation s of the wheel's angle in degrees, at a visible range in metres."""
    return 1.0 * (1 + 60 / visible_range)


def _describe(variant: str) -> dict:
    return {
        "names": ("steering",),
        "units": ("degrees",),
        "ranges": ((-80.0, 80.0),),  # 60 degrees and eight standard deviations
        "periods": (None,),
        # The left branch of a fork is the likelier one: the mirrored picture has another density.
        "flip_signs": (-1.0,) if variant == "plain" else None,
        "integer": False,
    }


def _draw(rng: np.random.Generator, variant: str) -> dict:
    chance, distance, place, extra = rng.random(4)
    fork = {"plain": False, "fork": True, "mixed": chance < FORK_CHANCE}[variant]
    visible = _NEAREST_FOG * (_FARTHEST_FOG / _NEAREST_FOG) ** distance
    s = steering_noise(visible)
    if fork:
        # To be seen, the branches also part by 6 m at least within 0.55 of the visible range.
        seen = WHEEL_PER_CURVATURE * 2 * 6 / (0.55 * visible) ** 2
        apart = max(10 * s, MIN_FORK_ANGLE, seen)
        apart *= 1 + 0.2 * extra
        middle = (2 * place - 1) * (MAX_ANGLE - apart / 2)
        angles = [middle - apart / 2, middle + apart / 2]  # left, right
    else:
        angles = [(2 * place - 1) * MAX_ANGLE]
    return {
        "fork": fork,
        "visible_range": float(visible),
        "angles": np.array(angles),
        "curvatures": np.array(angles) / WHEEL_PER_CURVATURE,
        "noise": s,
    }


def _truth(latent: dict) -> MixtureTruth:
    weights = [LEFT_CHANCE, 1 - LEFT_CHANCE] if latent["fork"] else [1.0]
    return MixtureTruth.of(weights, latent["angles"][:, None], latent["noise"])


def _soft_noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    return np.repeat(smooth_noise(rng, cells), _SUPERSAMPLING, axis=0)


def _scenery(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the colours (BGR, 0 to 1) of meadow, asphalt and sky."""
    light = rng.uniform(0.85, 1.1)
    meadow = np.array([0.16, 0.42, 0.3]) + rng.uniform(-0.07, 0.07, 3)
    asphalt = np.full(3, rng.uniform(0.26, 0.4)) + rng.uniform(-0.015, 0.015, 3)
    sky = np.array([0.86, 0.8, 0.74]) + rng.uniform(-0.06, 0.06, 3)
    return meadow * light, asphalt * light, sky


def _distances(pitch: float) -> np.ndarray:
    """Return the distance z (rows, 1) of every fine row, infinite above the horizon."""
    rows = (np.arange(SIZE * _SUPERSAMPLING) + 0.5) / _SUPERSAMPLING
    below = rows - (_HORIZON + pitch)
    with np.errstate(divide="ignore"):
        z = np.where(below > 0, _FOCAL * _HEIGHT / np.maximum(below, 1e-9), np.inf)
    return z[:, None].astype(np.float32)


def _paint(latent: dict, rng: np.random.Generator) -> np.ndarray:
    offset, heading, pitch = rng.uniform([-0.7, -0.035, -1.5], [0.7, 0.035, 1.5])
    meadow, asphalt, sky = _scenery(rng)
    z = _distances(pitch)
    first = int(np.argmax(np.isfinite(z[:, 0])))
    ground = z[first:]
    columns = np.arange(SIZE, dtype=np.float32) + np.float32(0.5)
    lateral = (columns - SIZE / 2) * ground / _FOCAL  # metres, (rows, 64)
    pixel = ground / _FOCAL  # width of a pixel on the ground

    def band(distance: np.ndarray, half: float) -> np.ndarray:
        """Share of a pixel within `half` metres of a line, given the distance to the line."""
        # A line thinner than the pixel covers the share 2 half / pixel of it at most.
        edge = np.clip((half - np.abs(distance)) / pixel + 0.5, 0, 1)
        return np.minimum(edge, 2 * half / pixel)

    from_centre = [
        lateral - (offset + heading * ground + 0.5 * kappa * ground**2)
        for kappa in latent["curvatures"]
    ]
    on_road = np.maximum.reduce([band(d, _HALF_WIDTH) for d in from_centre])
    period, phase = rng.uniform(6, 9), rng.uniform(0, 1)
    dash = np.clip((0.25 - np.abs((ground / period + phase) % 1 - 0.5)) * 12 + 0.5, 0, 1)
    # The edge lines follow the outline of both branches together, and the dashes of a fork part
    # where the branches do.
    edges = np.minimum.reduce([np.abs(d) for d in from_centre]) - (_HALF_WIDTH - 0.3)
    paint = band(edges, _LINE)
    together = np.abs(from_centre[0] - from_centre[-1]) < 1.5
    middle = (from_centre[0] + from_centre[-1]) / 2
    for d in from_centre:
        paint = np.maximum(paint, band(np.where(together, middle, d), _LINE) * dash)
    colour = np.empty((*on_road.shape, 3), np.float32)
    grass = meadow + 0.05 * _soft_noise(rng, 24)[first:, :, None] * np.array(
        [0.6, 1, 0.9], np.float32
    )
    surface = asphalt + 0.02 * _soft_noise(rng, 20)[first:, :, None]
    colour[:] = grass + (surface - grass) * on_road[..., None]
    white = rng.uniform(0.75, 0.95)
    colour += (white - colour) * (paint * rng.uniform(0.7, 1))[..., None]
    for _ in range(int(rng.integers(0, 3))):  # shadows of trees across the road
        at, half = rng.uniform(4, 30), rng.uniform(0.4, 1.5)
        slant = rng.uniform(-0.3, 0.3)
        near = np.abs(ground + slant * lateral - at)
        colour *= 1 - rng.uniform(0.2, 0.45) * np.clip(half - near + 0.5, 0, 1)[..., None]
    # Fog: at the visible range, a twentieth of the contrast is left (Koschmieder).
    clear = np.exp(-np.log(20) * ground / latent["visible_range"])[..., None]
    haze = np.clip(latent["visible_range"] / _FARTHEST_FOG, 0, 1)
    fog = sky * rng.uniform(0.9, 1.02) * (1 - 0.3 * haze)  # thin fog is bluish and darker
    fine = np.empty((SIZE * _SUPERSAMPLING, SIZE, 3), np.float32)
    fine[first:] = fog + (colour - fog) * clear
    blue = np.array([0.9, 0.65, 0.45])
    height = np.clip(1 - np.arange(first, dtype=np.float32) / max(first, 1), 0, 1)[:, None, None]
    fine[:first] = fog + (blue - fog) * (height * haze * 0.9)
    _add_hills(fine, first, fog, meadow, haze, rng)
    image = fine.reshape(SIZE, _SUPERSAMPLING, SIZE, 3).mean(1)
    return camera(image, rng, blur=(0.0, 0.5), noise=0.015, brightness=0.04, contrast=0.1)


def _add_hills(
    fine: np.ndarray,
    first: int,
    fog: np.ndarray,
    meadow: np.ndarray,
    haze: float,
    rng: np.random.Generator,
) -> None:
    """Paint hills above the horizon, which fade with the fog, in place."""
    knots = rng.uniform(0, 7, (1, 7)).astype(np.float32)
    top = cv2.resize(knots, (SIZE, 1), interpolation=cv2.INTER_CUBIC)[0]
    rows = (np.arange(first) + 0.5 - first)[:, None] / _SUPERSAMPLING
    mist = np.clip(0.3 - 0.25 * rows, 0, 1)  # the feet of the hills lie in the mist
    share = (np.clip(rows + top + 0.5, 0, 1) * mist)[..., None] * (0.8 * haze)
    fine[:first] += (0.75 * meadow + 0.25 * fog - fine[:first]) * share


ROAD = GeneratedTask(
    name="road",
    variants=("mixed", "plain", "fork"),
    describe=_describe,
    draw=_draw,
    paint=_paint,
    truth=_truth,
    group=lambda latent: "fork" if latent["fork"] else "plain",
)
render = ROAD.render
