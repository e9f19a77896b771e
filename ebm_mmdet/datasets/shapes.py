"""Generated detection images: textured, rotated, overlapping shapes with exact boxes.

The box of a shape is the tight box of its *full analytic outline*, in sub-pixel coordinates: pixel
``(i, j)`` covers ``[j, j + 1) x [i, i + 1)``, boxes are half-open ``(x1, y1, x2, y2)``. A shape is
only placed where it covers none of the four extreme points of the shapes below it, so the box of
the visible part is the same box and no annotation asks for guessing. Edges are anti-aliased from
the signed distance to the outline: a shift of a tenth of a pixel changes the image.

Only numpy and OpenCV are needed here; `shapes_dataset` makes an mmdet data set of it.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

CLASSES = ("ellipse", "polygon", "star")

# No class may cover an extreme point of another shape by less than this distance (pixels): the
# anti-aliased rim of the covering shape must not touch the point either.
_CLEARANCE = 1.5
_MAX_BOX_IOU = 0.3  # far below any NMS threshold, so that a crowd never costs a true positive
_PLACEMENT_TRIES = 12
# One prime per stream, so that (seed, index) of textures and of images never coincide.
_IMAGE_STREAM = 7919


@dataclass(frozen=True)
class Outline:
    """A closed curve: an ellipse (``vertices is None``) or a simple polygon.

    Attributes:
        label: Index into `CLASSES`.
        centre: ``(2,)`` x, y in pixels.
        matrix: ``(2, 2)`` map from the unit shape to pixels; an ellipse is ``centre + matrix u``
            over the unit circle ``u``.
        vertices: ``(K, 2)`` polygon corners in pixels, in order, or None for an ellipse.
    """

    label: int
    centre: np.ndarray
    matrix: np.ndarray
    vertices: np.ndarray | None

    def extremes(self) -> np.ndarray:
        """Return the left, top, right and bottom extreme points, ``(4, 2)``."""
        if self.vertices is None:
            # The point of an ellipse farthest along e_d is centre + M M^T e_d / |M^T e_d|.
            gram = self.matrix @ self.matrix.T
            reach = (gram / np.sqrt(gram.diagonal())).T
            return self.centre + np.concatenate([-reach, reach])
        lowest, highest = self.vertices.argmin(0), self.vertices.argmax(0)
        return self.vertices[np.concatenate([lowest, highest])]

    def box(self) -> np.ndarray:
        """Return the exact tight box ``(4,)``, xyxy in pixels."""
        left, top, right, bottom = self.extremes()
        return np.array([left[0], top[1], right[0], bottom[1]])

    def signed_distance(self, points: np.ndarray) -> np.ndarray:
        """Return the distance to the outline in pixels, negative inside.

        Exact for polygons; for ellipses the first-order estimate ``F / |grad F|``, exact on the
        curve and within a hundredth of a pixel in the rim where it matters.

        Args:
            points: ``(..., 2)`` x, y in pixels.

        Returns:
            ``(...)`` distances, in the dtype of `points`.
        """
        if self.vertices is None:
            return self._ellipse_distance(points)
        return self._polygon_distance(points)

    def _ellipse_distance(self, points: np.ndarray) -> np.ndarray:
        inverse = np.linalg.inv(self.matrix).astype(points.dtype)
        unit = (points - self.centre.astype(points.dtype)) @ inverse.T
        radius = np.maximum(np.sqrt((unit * unit).sum(-1)), 1e-6)
        gradient = unit @ inverse  # of the radius, times the radius
        return (radius - 1) * radius / np.maximum(np.sqrt((gradient * gradient).sum(-1)), 1e-6)

    def _polygon_distance(self, points: np.ndarray) -> np.ndarray:
        x, y = np.ascontiguousarray(points[..., 0]), np.ascontiguousarray(points[..., 1])
        # One leading axis for the edges a-b.
        ax, ay = self.vertices.T.astype(points.dtype).reshape(2, -1, *([1] * x.ndim))
        dx, dy = np.roll(ax, -1, axis=0) - ax, np.roll(ay, -1, axis=0) - ay
        px, py = x - ax, y - ay
        length = dx * dx + dy * dy
        along = px * (dx / length)
        along += py * (dy / length)
        np.minimum(np.maximum(along, 0, out=along), 1, out=along)
        # Even-odd rule: a ray to the right crosses the edge a-b. The sign of the cross product
        # says on which side of the edge the point lies.
        below = py >= 0
        crosses = (below != np.roll(below, -1, axis=0)) & ((px * dy < py * dx) == (dy > 0))
        px -= along * dx
        py -= along * dy
        px *= px
        py *= py
        px += py
        distance = np.sqrt(px.min(axis=0))
        return np.where(np.logical_xor.reduce(crosses, axis=0), -distance, distance)


def _unit_vertices(name: str, rng: np.random.Generator) -> np.ndarray | None:
    """Return the corners ``(K, 2)`` of a shape in the unit circle; None for the ellipse."""
    if name == "ellipse":
        return None
    if name == "polygon":
        corners = int(rng.integers(3, 6))
        angle = (np.arange(corners) + rng.uniform(-0.2, 0.2, corners)) * (2 * math.pi / corners)
        radius = np.ones(corners)
    else:  # star
        corners = 2 * int(rng.integers(4, 7))
        angle = np.arange(corners) * (2 * math.pi / corners)
        radius = np.where(np.arange(corners) % 2 == 0, 1.0, rng.uniform(0.4, 0.55))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def random_outline(
    rng: np.random.Generator, image_size: tuple[int, int], extent: tuple[float, float]
) -> Outline | None:
    """Draw one rotated shape that lies inside the image.

    Args:
        rng: Source of randomness.
        image_size: ``(height, width)`` in pixels.
        extent: Smallest and largest length of a shape's longer axis, in pixels (log-uniform).

    Returns:
        The outline, or None if the shape drawn is larger than the image.
    """
    height, width = image_size
    label = int(rng.integers(len(CLASSES)))
    half = 0.5 * math.exp(rng.uniform(math.log(extent[0]), math.log(extent[1])))
    axes = half * np.array([1.0, rng.uniform(0.45, 1.0)])
    angle = rng.uniform(0, 2 * math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = np.array([[cos, -sin], [sin, cos]]) * axes
    unit = _unit_vertices(CLASSES[label], rng)
    at_origin = Outline(label, np.zeros(2), matrix, None if unit is None else unit @ matrix.T)
    x1, y1, x2, y2 = at_origin.box()
    if x2 - x1 >= width - 2 or y2 - y1 >= height - 2:
        return None
    centre = np.array([rng.uniform(1 - x1, width - 1 - x2), rng.uniform(1 - y1, height - 1 - y2)])
    vertices = None if unit is None else at_origin.vertices + centre
    return Outline(label, centre, matrix, vertices)


def _box_iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    overlap = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    intersection = np.clip(overlap, 0, None).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return intersection / ((box[2:] - box[:2]).prod() + areas - intersection)


def place_outlines(
    rng: np.random.Generator,
    image_size: tuple[int, int],
    num_shapes: tuple[int, int],
    extent: tuple[float, float],
) -> list[Outline]:
    """Draw shapes, later ones on top, such that every extreme point stays visible.

    Args:
        rng: Source of randomness.
        image_size: ``(height, width)`` in pixels.
        num_shapes: Smallest and largest number of shapes aimed at; a crowded image may get fewer.
        extent: See `random_outline`.

    Returns:
        Outlines from bottom to top.
    """
    placed: list[Outline] = []
    boxes: list[np.ndarray] = []
    extremes: list[np.ndarray] = []
    for _ in range(int(rng.integers(num_shapes[0], num_shapes[1] + 1))):
        for _ in range(_PLACEMENT_TRIES):
            outline = random_outline(rng, image_size, extent)
            if outline is None:
                continue
            box = outline.box()
            if boxes and _box_iou(box, np.stack(boxes)).max() > _MAX_BOX_IOU:
                continue
            if extremes:
                distance = outline.signed_distance(np.concatenate(extremes))
                if distance.min() < _CLEARANCE:
                    continue
            placed.append(outline)
            boxes.append(box)
            extremes.append(outline.extremes())
            break
    return placed


def _random_colour(rng: np.random.Generator, label: int | None) -> np.ndarray:
    """Return a BGR colour ``(3,)`` float32 in 0..255: vivid for a class, greyish for None.

    Each class has its own third of the hues. What a detector needs first, where something is and
    what it is, is thus learnt in a minute; where exactly its edges are is not made any easier.
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
    while np.abs(colour - behind).max() < 45:  # an invisible shape would be no fair question
        colour = _random_colour(texture_rng, outline.label)
    window += coverage * (_texture(texture_rng, window.shape[:2], colour) - window)


def render_shapes(
    seed: int,
    index: int,
    image_size: tuple[int, int] = (160, 160),
    num_shapes: tuple[int, int] = (3, 7),
    extent: tuple[float, float] = (24.0, 80.0),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render image number `index` of the endless set `seed`; the same arguments, the same image.

    Args:
        seed: Which set, ``>= 0``.
        index: Which image of the set, ``>= 0``.
        image_size: ``(height, width)`` in pixels.
        num_shapes: Smallest and largest number of shapes aimed at.
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

    The annotation file is written last and in one piece: where it exists, the set is complete.

    Args:
        root: Folder; made if it does not exist.
        split: Name of the set, for example ``"val"``.
        num_images: Number of images.
        seed: Which endless set to take images ``0 .. num_images - 1`` from. Give every split its
            own seed.
        **render_options: `image_size`, `num_shapes`, `extent` of `render_shapes`.

    Returns:
        Path of the annotation file.

    Raises:
        FileExistsError: The set is already there; nothing is changed.
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
                    "id": len(annotations) + 1,  # pycocotools takes id 0 for "no match"
                    "image_id": index,
                    "category_id": int(label) + 1,
                    "bbox": [round(v, 4) for v in (x1, y1, x2 - x1, y2 - y1)],
                    "area": round((x2 - x1) * (y2 - y1), 4),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    partial = annotation_file.with_suffix(".json.partial")
    partial.write_text(json.dumps(content))
    os.replace(partial, annotation_file)
    return annotation_file
