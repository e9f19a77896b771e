"""Scanned digits, turned: by what angle?

The scans are scikit-learn's (`load_digits`: 1,797 scans of 8 x 8 pixels from the UCI repository),
which is an optional dependency. The label is the exact angle in (-180, 180] degrees, counter-
clockwise, with period 360. Real ambiguity comes with them: a 0, 1 or 8 looks alike at an angle and
at that angle plus 180 degrees, and a 6 is a turned 9. So the density of the label is not known in
closed form.

The variants ``train``, ``val`` and ``test`` are made of 1,197, 300 and 300 scans: no scan is in
two of them.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from .imaging import camera, smooth_noise
from .task import SIZE, GeneratedTask

__all__ = ["DIGITS", "render", "scan_numbers"]

_HELD_OUT = 300
_SPLIT_SEED = 20


@lru_cache(maxsize=1)
def _scans() -> tuple[np.ndarray, np.ndarray]:
    """Return the scans ``(1797, 8, 8)`` float32 in 0..1 and the digits ``(1797,)``; read only."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the task 'digits' takes its scans from scikit-learn, which is not installed: "
            "`pip install scikit-learn`"
        ) from error
    loaded = load_digits()
    scans = (loaded.images / 16).astype(np.float32)
    scans.flags.writeable = False
    return scans, loaded.target


def scan_numbers(variant: str) -> np.ndarray:
    """Return the numbers of the scans, as in `load_digits`, that a variant is made of.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    rng = np.random.Generator(np.random.Philox(key=_SPLIT_SEED))
    order = np.argsort(rng.random(len(_scans()[0])))
    parts = {
        "test": order[:_HELD_OUT],
        "val": order[_HELD_OUT : 2 * _HELD_OUT],
        "train": order[2 * _HELD_OUT :],
    }
    return parts[variant]


_cached_numbers = lru_cache(maxsize=3)(scan_numbers)


def _describe(variant: str) -> dict:
    return {
        "names": ("angle",),
        "units": ("degrees",),
        "ranges": ((-180.0, 180.0),),
        "periods": (360.0,),
        "flip_signs": None,  # a mirrored digit is no digit
        "integer": False,
    }


def _draw(rng: np.random.Generator, variant: str) -> dict:
    numbers = _cached_numbers(variant)
    scan = int(numbers[int(rng.integers(len(numbers)))])
    return {
        "scan": scan,
        "digit": int(_scans()[1][scan]),
        "angle": float(180 - 360 * rng.random()),  # in (-180, 180]
    }


def _paint(latent: dict, rng: np.random.Generator) -> np.ndarray:
    scan = _scans()[0][latent["scan"]]
    scale = rng.uniform(4.6, 5.8)  # pixels per pixel of the scan
    stretch = np.exp(rng.uniform(-0.06, 0.06))
    at = SIZE / 2 + rng.uniform(-3, 3, 2)
    cos, sin = (f(np.deg2rad(latent["angle"])) for f in (np.cos, np.sin))
    # Rows go down, so this turns counter-clockwise as seen.
    turn = np.array([[cos, sin], [-sin, cos]]) * scale @ np.diag([stretch, 1 / stretch])
    padded = np.pad(scan, 2)
    middle = (padded.shape[0] - 1) / 2
    matrix = np.column_stack([turn, at - 0.5 - turn @ [middle, middle]])
    ink = cv2.warpAffine(padded, matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC)
    ink = cv2.GaussianBlur(ink, (0, 0), 1.1)  # the corners of the scan's pixels
    ink = np.clip((ink - 0.2) * rng.uniform(1.5, 2.0), 0, 1)
    paper = rng.uniform(0.78, 0.95) + 0.025 * smooth_noise(rng, 6)
    image = paper + (rng.uniform(0.08, 0.25) - paper) * ink
    return camera(image.astype(np.float32), rng, noise=0.025)


DIGITS = GeneratedTask(
    name="digits",
    variants=("train", "val", "test"),
    describe=_describe,
    draw=_draw,
    paint=_paint,
    truth=lambda latent: None,
    exact=lambda latent: [latent["angle"]],
    group=lambda latent: str(latent["digit"]),
)
render = DIGITS.render
