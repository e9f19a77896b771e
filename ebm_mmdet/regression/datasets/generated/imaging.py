"""Pixels that the generated tasks share: grids, smooth noise and the camera."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from .task import SIZE

__all__ = ["add_discs", "camera", "pixel_grid", "smooth_noise"]


@lru_cache(maxsize=8)
def pixel_grid(size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y ``(size, size)`` float32 of the pixels' centres, from 0.5; read only."""
    centres = np.arange(size, dtype=np.float32) + 0.5
    x, y = np.meshgrid(centres, centres)
    x.flags.writeable = y.flags.writeable = False
    return x, y


def smooth_noise(rng: np.random.Generator, cells: int, size: int = SIZE) -> np.ndarray:
    """Return a random field ``(size, size)`` float32 of mean 0 and about unit deviation.

    Args:
        rng: source of randomness.
        cells: number of independent values along each side.
        size: width and height in pixels.
    """
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def add_discs(
    canvas: np.ndarray, x: np.ndarray, y: np.ndarray, radius: np.ndarray, brightness: np.ndarray
) -> None:
    """Add anti-aliased discs to `canvas` ``(H, W)`` float32, in place.

    Args:
        canvas: image.
        x: ``(k,)`` centres in pixels; the centre of the first pixel is 0.5.
        y: ``(k,)``.
        radius: ``(k,)`` in pixels.
        brightness: ``(k,)``.
    """
    height, width = canvas.shape
    reach = int(np.ceil(radius.max(initial=0))) + 1
    steps = np.arange(-reach, reach + 1)
    columns = np.floor(x).astype(np.int64)[:, None] + steps  # (k, w)
    rows = np.floor(y).astype(np.int64)[:, None] + steps
    dx = columns + 0.5 - x[:, None]
    dy = rows + 0.5 - y[:, None]
    distance = np.sqrt(dx[:, None, :] ** 2 + dy[:, :, None] ** 2)
    cover = np.clip(radius[:, None, None] + 0.5 - distance, 0, 1) * brightness[:, None, None]
    inside = ((columns >= 0) & (columns < width))[:, None, :] & ((rows >= 0) & (rows < height))[
        :, :, None
    ]
    flat = (rows[:, :, None] * width + columns[:, None, :])[inside]
    canvas += np.bincount(flat, cover[inside], height * width).reshape(height, width)


def camera(
    image: np.ndarray,
    rng: np.random.Generator,
    blur: tuple[float, float] = (0.0, 0.6),
    noise: float = 0.02,
    brightness: float = 0.06,
    contrast: float = 0.15,
) -> np.ndarray:
    """Take the picture: blur, brightness, contrast, noise, 8 bits.

    Args:
        image: ``(64, 64)`` or ``(64, 64, 3)`` float32, 0 is black and 1 is white.
        rng: source of randomness.
        blur: range of the standard deviation of a Gaussian blur, in pixels.
        noise: standard deviation of the noise of a pixel.
        brightness: standard deviation of the brightness that is added.
        contrast: standard deviation of the logarithm of the contrast.

    Returns:
        uint8 of the same shape.
    """
    sigma = float(rng.uniform(*blur))
    shift, gain = rng.standard_normal(2)
    if sigma > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    image = (image - 0.5) * np.float32(np.exp(contrast * np.clip(gain, -2, 2)))
    image += np.float32(0.5 + brightness * np.clip(shift, -2, 2))
    image += np.float32(noise) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
