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
from .outlines import CLASSES, HandledOutline, Outline, place_outlines

__all__ = ["CLASSES", "HANDLE_LENGTH", "render_conventions", "render_shapes", "write_coco"]

# One prime per stream, so that (seed, index) of textures and of images never coincide.
_IMAGE_STREAM = 7919
_CONVENTION_STREAM = 7927

HANDLE_LENGTH = (1.2, 1.6)
"""Lengths of handles, relative to the body. A box in the middle between both conventions then has
an IoU below 0.75 with either: at 1.2, 0.73 and 0.63 halfway, and 0.67 at the geometric mean."""


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


def _paint(
    image: np.ndarray, outline: Outline, texture_rng: np.random.Generator, grey: bool = False
) -> None:
    """Blend a textured shape into `image` ``(H, W, 3)`` float32, in place."""
    label = None if grey else outline.label
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
    colour = _random_colour(texture_rng, label)
    while np.abs(colour - behind).max() < 45:  # a shape must be visible
        colour = _random_colour(texture_rng, label)
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
    image, outlines = _render(seed, index, image_size, num_shapes, extent)
    boxes = np.array([o.box() for o in outlines], np.float32).reshape(-1, 4)
    return image, boxes, _labels(outlines)


def render_conventions(
    seed: int,
    index: int,
    image_size: tuple[int, int] = (160, 160),
    num_shapes: tuple[int, int] = (3, 7),
    extent: tuple[float, float] = (24.0, 80.0),
    handle_length: tuple[float, float] = HANDLE_LENGTH,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Render shapes with a handle each, annotated by either of two conventions.

    A handle is a grey bar that sticks out on one side of a shape. Half of the annotators would
    include it, and half would not: for every object, a fair coin tells which box is annotated.
    It depends on ``(seed, index)`` and the object alone.

    Args:
        seed: Number of the set, ``>= 0``.
        index: Number of the image in the set, ``>= 0``.
        image_size: ``(height, width)`` in pixels.
        num_shapes: Smallest and largest intended number of shapes.
        extent: Smallest and largest length of a body's longer axis, in pixels.
        handle_length: Smallest and largest length of a handle outside the body, relative to the
            body's side along it.

    Returns:
        Image ``(H, W, 3)`` uint8 BGR; boxes ``(n, 2, 4)`` float32 xyxy, without and with the
        handle, exact and inside the image; which of them is annotated, ``(n,)`` int64; labels
        ``(n,)`` int64 into `CLASSES`.

    Raises:
        ValueError: Negative seed or index, or lengths that are not positive and in order.
    """
    low, high = handle_length
    if not 0 < low <= high < math.inf:
        raise ValueError(
            f"handle_length={tuple(handle_length)}; expected 0 < smallest <= largest, such as "
            f"{HANDLE_LENGTH}"
        )
    image, outlines = _render(seed, index, image_size, num_shapes, extent, (low, high))
    boxes = np.array([o.boxes() for o in outlines], np.float32).reshape(-1, 2, 4)
    coins = np.random.default_rng([_CONVENTION_STREAM, seed, index])
    return image, boxes, coins.integers(2, size=len(boxes)), _labels(outlines)


def _render(
    seed: int,
    index: int,
    image_size: tuple[int, int],
    num_shapes: tuple[int, int],
    extent: tuple[float, float],
    handle_length: tuple[float, float] | None = None,
) -> tuple[np.ndarray, list]:
    """Return the image and its outlines, from bottom to top."""
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be >= 0, got seed={seed}, index={index}")
    rng = np.random.default_rng([_IMAGE_STREAM, seed, index])
    outlines = place_outlines(rng, image_size, num_shapes, extent, handle_length)
    image = _texture(rng, image_size, _random_colour(rng, None))
    for outline in outlines:
        if isinstance(outline, HandledOutline):
            _paint(image, outline.handle, rng, grey=True)
            outline = outline.body
        _paint(image, outline, rng)
    image += rng.uniform(1, 6) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), outlines


def _labels(outlines: list) -> np.ndarray:
    return np.array([o.label for o in outlines], np.int64)


def write_coco(
    root: str | os.PathLike,
    split: str,
    num_images: int,
    seed: int,
    conventions: int = 1,
    **render_options,
) -> Path:
    """Write a fixed set in COCO format: ``root/annotations/<split>.json`` and ``root/images/``.

    The annotation file is written last and atomically: if it exists, the set is complete.

    Args:
        root: Folder; made if it does not exist.
        split: Name of the set, for example ``"val"``.
        num_images: Number of images.
        seed: Number of the endless set from which images ``0 .. num_images - 1`` are taken. Use
            a different seed for every split.
        conventions: With 2, the shapes are those of `render_conventions`, and each annotation has
            two keys more: ``conventions``, both boxes as ``[x, y, width, height]``, and
            ``convention``, which of them (0 or 1) ``bbox`` is.
        **render_options: `image_size`, `num_shapes`, `extent` of `render_shapes`, and with two
            conventions `handle_length`.

    Returns:
        Path of the annotation file.

    Raises:
        FileExistsError: The set already exists; nothing is changed.
        ValueError: There are neither one nor two conventions.
    """
    check_conventions(conventions)
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
        ways = chosen = None
        if conventions == 2:
            image, ways, chosen, labels = render_conventions(seed, index, **render_options)
            boxes = ways[np.arange(len(ways)), chosen]
        else:
            image, boxes, labels = render_shapes(seed, index, **render_options)
        name = f"{split}_{index:05d}.png"
        if not cv2.imwrite(str(root / "images" / name), image):
            raise OSError(f"could not write {root / 'images' / name}; is the disk full?")
        height, width = image.shape[:2]
        images.append({"id": index, "file_name": name, "height": height, "width": width})
        for i, (box, label) in enumerate(zip(boxes.astype(float), labels)):
            annotation = {
                "id": len(annotations) + 1,  # pycocotools reads id 0 as "no match"
                "image_id": index,
                "category_id": int(label) + 1,
                "bbox": _coco_box(box),
                "area": round((box[2] - box[0]) * (box[3] - box[1]), 4),
                "iscrowd": 0,
            }
            if ways is not None:
                annotation["conventions"] = [_coco_box(way) for way in ways[i].astype(float)]
                annotation["convention"] = int(chosen[i])
            annotations.append(annotation)
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_text(annotation_file, json.dumps(content))
    return annotation_file


def check_conventions(conventions: int) -> None:
    """Raise a `ValueError` unless there are one or two."""
    if conventions not in (1, 2):
        raise ValueError(
            f"conventions={conventions!r}; expected 1 (one box per object) or 2 (with and without "
            "its handle)"
        )


def _coco_box(box: np.ndarray) -> list[float]:
    x1, y1, x2, y2 = box
    return [round(v, 4) for v in (x1, y1, x2 - x1, y2 - y1)]
