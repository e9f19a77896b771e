"""Generated detection images: textured, rotated, overlapping shapes with exact boxes.

Boxes are those of `outlines`. Edges are anti-aliased from the signed distance to the outline: a
shift of a tenth of a pixel changes the image.

Only numpy and OpenCV are needed here; `shapes_dataset` makes an mmdet data set of it.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import cv2
import numpy as np

from ..files import write_text
from .outlines import CLASSES, Outline, place_outlines

__all__ = ["CLASSES", "render_shapes", "write_coco"]

# One prime per stream, so that (seed, index) of textures and of images never coincide.
_IMAGE_STREAM = 7919


def _random_colour(rng: np.random.Generator, label: int | None) -> np.ndarray:
    """Return a BGR colour ``(3,)`` float32 in 0..255: vivid for a class, greyish for None.

    Each class has its own third of the hues. So a detector learns within a minute where an object
    is and of what class; the exact position of its edges does not become easier.
    """
    hue = rng.uniform(0, 360) if label is None else label * 120 + rng.uniform(-45, 45)
    saturation = rng.uniform(0, 0.15) if label is None else rng.uniform(0.35, 0.85)
    hsv = np.array([[[hue % 360, saturation, rng.uniform(0.3, 0.95)]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0] * 255


def _texture(rng: np.random.Generator, shape: tuple[int, int], colour: np.ndarray) -> np.ndarray:
    """Return a texture ``(h, w, 3)`` float32 in 0..255 around `colour` ``(3,)``."""
    height, width = shape
    cells = rng.uniform(3, 14)
    grid = (max(2, round(height / cells)), max(2, round(width / cells)))
    noise = rng.standard_normal(grid, dtype=np.float32)
    pattern = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.6:
        period, angle, phase = rng.uniform(4, 18), rng.uniform(0, math.pi), rng.uniform(0, 6.3)
        x = np.arange(width, dtype=np.float32) * (math.cos(angle) * 2 * math.pi / period)
        y = np.arange(height, dtype=np.float32) * (math.sin(angle) * 2 * math.pi / period)
        waves = np.sin(x[None] + y[:, None] + phase)
        if rng.random() < 0.4:  # a chequered pattern is the product of two waves
            waves = waves * np.sin(x[::-1][None] - y[:, None])
        pattern = 0.5 * pattern + 1.4 * waves
    tint = rng.uniform(8, 26) * (1 + 0.3 * rng.standard_normal(3))
    return pattern[..., None] * tint.astype(np.float32) + colour


def _paint(image: np.ndarray, outline: Outline, texture_rng: np.random.Generator) -> None:
    """Blend a textured shape into `image` ``(H, W, 3)`` float32, in place."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = outline.box()
    left, top = max(int(x1) - 1, 0), max(int(y1) - 1, 0)
    right, bottom = min(int(x2) + 2, width), min(int(y2) + 2, height)
    xs = np.arange(left, right, dtype=np.float32) + 0.5
    ys = np.arange(top, bottom, dtype=np.float32) + 0.5
    points = np.stack(np.meshgrid(xs, ys), axis=-1)
    coverage = np.clip(0.5 - outline.signed_distance(points), 0, 1)[..., None]
    window = image[top:bottom, left:right]
    behind = window.reshape(-1, 3).mean(0)
    colour = _random_colour(texture_rng, outline.label)
    while np.abs(colour - behind).max() < 45:  # a shape must be visible
        colour = _random_colour(texture_rng, outline.label)
    window += coverage * (_texture(texture_rng, window.shape[:2], colour) - window)


def render_shapes(
    seed: int,
    index: int,
    image_size: tuple[int, int] = (160, 160),
    num_shapes: tuple[int, int] = (3, 7),
    extent: tuple[float, float] = (24.0, 80.0),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render image `index` of the endless set `seed`; equal arguments give the same image.

    Args:
        seed: Number of the set, ``>= 0``.
        index: Number of the image in the set, ``>= 0``.
        image_size: ``(height, width)`` in pixels.
        num_shapes: Smallest and largest intended number of shapes.
        extent: Smallest and largest length of a shape's longer axis, in pixels.

    Returns:
        Image ``(H, W, 3)`` uint8 BGR; boxes ``(n, 4)`` float32 xyxy, exact and inside the image;
        labels ``(n,)`` int64 into `CLASSES`.

    Raises:
        ValueError: Negative seed or index.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be >= 0, got seed={seed}, index={index}")
    rng = np.random.default_rng([_IMAGE_STREAM, seed, index])
    outlines = place_outlines(rng, image_size, num_shapes, extent)
    image = _texture(rng, image_size, _random_colour(rng, None))
    for outline in outlines:
        _paint(image, outline, rng)
    image += rng.uniform(1, 6) * rng.standard_normal(image.shape, dtype=np.float32)
    boxes = np.array([o.box() for o in outlines], np.float32).reshape(-1, 4)
    labels = np.array([o.label for o in outlines], np.int64)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), boxes, labels


def write_coco(
    root: str | os.PathLike, split: str, num_images: int, seed: int, **render_options
) -> Path:
    """Write a fixed set in COCO format: ``root/annotations/<split>.json`` and ``root/images/``.

    The annotation file is written last and atomically: if it exists, the set is complete.

    Args:
        root: Folder; made if it does not exist.
        split: Name of the set, for example ``"val"``.
        num_images: Number of images.
        seed: Number of the endless set from which images ``0 .. num_images - 1`` are taken. Use
            a different seed for every split.
        **render_options: `image_size`, `num_shapes`, `extent` of `render_shapes`.

    Returns:
        Path of the annotation file.

    Raises:
        FileExistsError: The set already exists; nothing is changed.
    """
    root = Path(root)
    annotation_file = root / "annotations" / f"{split}.json"
    if annotation_file.exists():
        raise FileExistsError(
            f"{annotation_file} exists and is not overwritten; choose another folder or remove it"
        )
    annotation_file.parent.mkdir(parents=True, exist_ok=True)
    (root / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index in range(num_images):
        image, boxes, labels = render_shapes(seed, index, **render_options)
        name = f"{split}_{index:05d}.png"
        if not cv2.imwrite(str(root / "images" / name), image):
            raise OSError(f"could not write {root / 'images' / name}; is the disk full?")
        height, width = image.shape[:2]
        images.append({"id": index, "file_name": name, "height": height, "width": width})
        for (x1, y1, x2, y2), label in zip(boxes.astype(float), labels):
            annotations.append(
                {
                    "id": len(annotations) + 1,  # pycocotools reads id 0 as "no match"
                    "image_id": index,
                    "category_id": int(label) + 1,
                    "bbox": [round(v, 4) for v in (x1, y1, x2 - x1, y2 - y1)],
                    "area": round((x2 - x1) * (y2 - y1), 4),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_text(annotation_file, json.dumps(content))
    return annotation_file
