"""Writing of images, maps and annotations in the layout that `NYUv2Dataset` reads.

::

    ROOT/images/NAME.png            RGB
    ROOT/depth/NAME.npy             float32, metres (or NAME.png, 16 bits, millimetres)
    ROOT/normals/NAME.png           8-bit RGB, (n + 1) / 2 * 255
    ROOT/normals_mask/NAME.png      255 where the normal is valid
    ROOT/annotations/instances_SPLIT.json
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ...files import write_bytes, write_text
from .maps import encode_depth, encode_mask, encode_normals, encode_png

__all__ = ["annotate_masks", "annotation_file", "coco_content", "write_annotations", "write_sample"]


def write_sample(
    root: str | Path,
    name: str,
    image: np.ndarray,
    depth: np.ndarray | None = None,
    normals: np.ndarray | None = None,
    normals_mask: np.ndarray | None = None,
    depth_ending: str = ".npy",
) -> dict:
    """Write an image and the maps that it has.

    Args:
        root: Folder of the data set.
        name: Name of the files, without ending.
        image: ``(H, W, 3)`` uint8 BGR.
        depth: ``(H, W)`` in metres.
        normals: ``(H, W, 3)`` unit vectors.
        normals_mask: ``(H, W)`` bool.
        depth_ending: ``".npy"`` or ``".png"``.

    Returns:
        The part of the image's entry in an annotation file that describes these files:
        ``file_name``, ``width``, ``height``, and for those that are given ``depth_file``,
        ``normals_file``, ``normals_mask_file``. The caller adds ``id``, ``scene``, ``scene_type``.
    """
    root = Path(root)
    height, width = image.shape[:2]
    entry = {"file_name": f"{name}.png", "width": width, "height": height}
    write_bytes(root / "images" / entry["file_name"], encode_png(image))
    if depth is not None:
        entry["depth_file"] = f"{name}{depth_ending}"
        write_bytes(root / "depth" / entry["depth_file"], encode_depth(depth, depth_ending))
    if normals is not None:
        entry["normals_file"] = f"{name}.png"
        write_bytes(root / "normals" / entry["normals_file"], encode_normals(normals))
        if normals_mask is not None:
            entry["normals_mask_file"] = f"{name}.png"
            path = root / "normals_mask" / entry["normals_mask_file"]
            write_bytes(path, encode_mask(normals_mask))
    return entry


def annotate_masks(masks: np.ndarray, labels: Sequence[int]) -> list[dict]:
    """Annotations of an image's objects, with the smallest boxes around their pixels.

    Args:
        masks: ``(n, H, W)`` bool. Masks without a pixel are left out.
        labels: n indices of classes, from 0.

    Returns:
        For each object ``category_id`` (label + 1), ``bbox`` (x, y, width, height in pixels),
        ``area`` of the box, ``iscrowd`` 0, and ``segmentation``, compressed RLE.
        `write_annotations` adds the ids.
    """
    annotations = []
    for mask, label in zip(np.asarray(masks, bool), labels):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            continue
        x, y = int(columns[0]), int(rows[0])
        width, height = int(columns[-1]) - x + 1, int(rows[-1]) - y + 1
        annotations.append(
            {
                "category_id": int(label) + 1,
                "bbox": [x, y, width, height],
                "area": width * height,
                "iscrowd": 0,
                "segmentation": run_lengths(mask),
            }
        )
    return annotations


def run_lengths(mask: np.ndarray) -> dict:
    """Compressed RLE of a mask ``(H, W)``, as in JSON files in COCO format."""
    from pycocotools import mask as coco_mask  # needed by nothing else here

    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def coco_content(
    entries: Iterable[tuple[dict, Sequence[dict]]],
    classes: Sequence[str],
    scene_types: Sequence[str] = (),
    info: dict | None = None,
) -> dict:
    """The content of an annotation file.

    Args:
        entries: For every image its entry, with a unique ``id``, and its annotations without
            ``id`` and ``image_id``. If an entry has ``scene_type``, it also gets ``scene_id``, the
            index in ``scene_types``.
        classes: Names of the categories 1, 2, ...
        scene_types: Names of all types of scene of the data set, not only of this split.
        info: Content of ``info``.

    Returns:
        ``info``, ``licenses``, ``categories``, ``scene_types``, ``images`` and ``annotations``;
        annotations are numbered from 1.
    """
    images, annotations = [], []
    for image, found in entries:
        image = dict(image)
        if image.get("scene_type") is not None:
            image["scene_id"] = list(scene_types).index(image["scene_type"])
        images.append(image)
        for annotation in found:
            ids = {"id": len(annotations) + 1, "image_id": image["id"]}
            annotations.append({**ids, **annotation})
    return {
        "info": dict(info or {}),
        "licenses": [],
        "categories": [
            {"id": number, "name": name, "supercategory": "home"}
            for number, name in enumerate(classes, start=1)
        ],
        "scene_types": list(scene_types),
        "images": images,
        "annotations": annotations,
    }


def annotation_file(root: str | Path, split: str) -> Path:
    """The path of the annotation file of a split."""
    return Path(root) / "annotations" / f"instances_{split}.json"


def write_annotations(
    root: str | Path,
    split: str,
    entries: Iterable[tuple[dict, Sequence[dict]]],
    classes: Sequence[str],
    scene_types: Sequence[str] = (),
    info: dict | None = None,
) -> Path:
    """Write the annotation file of a split, complete or not at all; see `coco_content`.

    Returns:
        Its path, ``root/annotations/instances_<split>.json``.

    Raises:
        FileExistsError: It exists; nothing is changed.
    """
    path = annotation_file(root, split)
    if path.exists():
        raise FileExistsError(
            f"{path} exists and is not overwritten; choose another folder or remove it"
        )
    write_text(path, json.dumps(coco_content(entries, classes, scene_types, info)))
    return path
