"""A translucent head: what is its pose, where the picture may allow two of them?

The head is a set of isotropic Gaussian blobs in space, seen from far away (orthographic). A blob
at c adds ``A exp(-|u - P R c|² / 2 s²)`` to the image, where P drops the depth and ``R = R_z(roll)
R_y(yaw) R_x(pitch)``: a positive yaw turns the face to the right of the picture, a positive pitch
turns it down, and a positive roll is counter-clockwise.
70 % of the heads are ``plain``: eyes, nose and mouth are in front. The others are ``ambiguous``:
they have a face in front and its mirror image behind. With ``S = diag(1, 1, -1)`` such a set of
blobs equals its own mirror image, ``P S = P`` and ``S R(w, p, r) S = R(-w, -p, r)``, so the poses
(w, p, r) and (-w, -p, r) give the same image, and

    p(y | x) = ½ N(y; (w, p, r), 1.5² I) + ½ N(y; (-w, -p, r), 1.5² I).

Yaw and pitch change sign together, so a product of marginals does not describe it either.
"""

from __future__ import annotations

import numpy as np

from ..truth import MixtureTruth
from .imaging import camera, smooth_noise
from .task import SIZE, GeneratedTask

__all__ = ["HEAD", "blobs", "project", "render", "rotation"]

MAX_POSE = (75.0, 60.0, 40.0)
"""Largest yaw, pitch and roll, degrees."""
LABEL_NOISE = 1.5
AMBIGUOUS_CHANCE = 0.3
_SCALE = 22.0  # pixels per unit of the head

# One row per blob: x (its own left), y (up), z (to the front), s, then the light added to B, G, R.
_BODY = np.array(
    [
        [0.00, 0.05, 0.32, 0.46, 0.28, 0.36, 0.46],  # skull, front half
        [0.00, 0.05, -0.32, 0.46, 0.28, 0.36, 0.46],  # skull, back half
        [0.00, -0.90, 0.00, 0.26, 0.20, 0.26, 0.34],  # neck
        [0.05, 0.98, 0.00, 0.20, 0.05, 0.16, 0.36],  # bun, on top
        [0.82, 0.02, 0.00, 0.15, 0.12, 0.22, 0.44],  # left ear, the larger one
        [-0.78, 0.06, 0.00, 0.10, 0.34, 0.22, 0.16],  # right ear
    ]
)
_FACE = np.array(
    [
        [0.28, 0.18, 0.62, 0.10, -0.18, -0.36, -0.46],  # left eye
        [-0.28, 0.18, 0.62, 0.10, -0.18, -0.36, -0.46],  # right eye
        [0.00, -0.08, 0.86, 0.09, 0.22, 0.32, 0.42],  # nose
        [0.00, -0.40, 0.64, 0.12, -0.30, -0.42, -0.12],  # mouth
    ]
)


def rotation(pose: np.ndarray) -> np.ndarray:
    """Return ``R_z(roll) R_y(yaw) R_x(pitch)`` ``(3, 3)`` for yaw, pitch, roll in degrees."""
    yaw, pitch, roll = np.deg2rad(np.asarray(pose, np.float64))
    (cw, sw), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw, pitch, roll))
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    about_y = np.array([[cw, 0, sw], [0, 1, 0], [-sw, 0, cw]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    return about_z @ about_y @ about_x


def blobs(ambiguous: bool) -> np.ndarray:
    """Return the blobs ``(n, 7)``: x, y, z, s in units of the head, light in B, G and R."""
    if not ambiguous:
        return np.concatenate([_BODY, _FACE])
    behind = _FACE * np.array([1, 1, -1, 1, 1, 1, 1])
    return np.concatenate([_BODY, _FACE, behind])


def project(parts: np.ndarray, pose: np.ndarray, centre: np.ndarray, scale: float) -> np.ndarray:
    """Add up the light of all blobs.

    Args:
        parts: ``(n, 7)`` as given by `blobs`.
        pose: yaw, pitch, roll in degrees.
        centre: x and y of the head's centre in pixels.
        scale: pixels per unit of the head.

    Returns:
        ``(64, 64, 3)`` float64 BGR; empty space is 0.
    """
    at = parts[:, :3] @ rotation(pose).T
    pixels = np.arange(SIZE) + 0.5
    # A Gaussian is the product of one for the rows and one for the columns.
    width = 2 * (parts[:, 3, None] * scale) ** 2
    columns = np.exp(-((pixels - (centre[0] + scale * at[:, 0, None])) ** 2) / width)
    rows = np.exp(-((pixels - (centre[1] - scale * at[:, 1, None])) ** 2) / width)
    lit = rows[:, :, None] * parts[:, None, 4:]  # (n, 64, 3)
    return np.tensordot(lit, columns, axes=(0, 0)).transpose(0, 2, 1)


def _describe(variant: str) -> dict:
    # Eight standard deviations of the label noise lie between the poses and the ranges.
    margin = 8 * LABEL_NOISE
    return {
        "names": ("yaw", "pitch", "roll"),
        "units": ("degrees",) * 3,
        "ranges": tuple((-most - margin, most + margin) for most in MAX_POSE),
        "periods": (None,) * 3,
        "flip_signs": None,  # the ears differ: a mirrored head is not a head of this set
        "integer": False,
    }


def _draw(rng: np.random.Generator, variant: str) -> dict:
    chance, *place = rng.random(4)
    ambiguous = {"plain": False, "ambiguous": True, "mixed": chance < AMBIGUOUS_CHANCE}[variant]
    return {"ambiguous": ambiguous, "pose": (2 * np.array(place) - 1) * MAX_POSE}


def _truth(latent: dict) -> MixtureTruth:
    if not latent["ambiguous"]:
        return MixtureTruth.of([1.0], latent["pose"][None], LABEL_NOISE)
    mirrored = latent["pose"] * (-1, -1, 1)
    return MixtureTruth.of([0.5, 0.5], [latent["pose"], mirrored], LABEL_NOISE)


def _paint(latent: dict, rng: np.random.Generator) -> np.ndarray:
    centre = 32 + rng.uniform(-2.5, 2.5, 2)
    scale = _SCALE * rng.uniform(0.92, 1.06)
    head = project(blobs(latent["ambiguous"]), latent["pose"], centre, scale)
    backdrop = (
        rng.uniform(0.06, 0.18)
        + rng.uniform(-0.025, 0.025, 3)
        + 0.012 * smooth_noise(rng, 4)[..., None]
    )
    image = (backdrop + head * rng.uniform(0.85, 1.05)).astype(np.float32)
    return camera(image, rng, blur=(0.0, 0.5), noise=0.03, brightness=0.03, contrast=0.08)


HEAD = GeneratedTask(
    name="head",
    variants=("mixed", "plain", "ambiguous"),
    describe=_describe,
    draw=_draw,
    paint=_paint,
    truth=_truth,
    group=lambda latent: "ambiguous" if latent["ambiguous"] else "plain",
)
render = HEAD.render
