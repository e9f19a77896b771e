"""Images that a user names: by path, folder, pattern, or as arrays."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["IMAGE_ENDINGS", "Image", "image_name", "list_images", "read_image", "unique_stems"]

Image = str | np.ndarray | dict
"""Path or URL, (H, W, 3) uint8 BGR, or a dictionary with one of them as ``img_path`` or ``img``."""

IMAGE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def list_images(inputs) -> list[Image]:
    """All images of ``inputs``, those of a folder or pattern in the order of their names.

    Args:
        inputs: an image, a folder, a pattern with ``*``, or a list of these.

    Raises:
        FileNotFoundError: there is no such path, a folder has no image, or a pattern matches none.
        TypeError: an input is of another type, or an array of another shape.
    """
    if isinstance(inputs, (list, tuple)):
        return [image for each in inputs for image in list_images(each)]
    if isinstance(inputs, np.ndarray) and (inputs.ndim != 3 or inputs.shape[2] != 3):
        raise TypeError(
            f"an input is an array of shape {inputs.shape}; expected (H, W, 3) uint8, BGR. A grey "
            "one becomes that by cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)"
        )
    if isinstance(inputs, (np.ndarray, dict)):
        return [inputs]
    if not isinstance(inputs, (str, os.PathLike)):
        raise TypeError(f"an input is {type(inputs).__name__}; expected a path or an array")
    name = os.fspath(inputs)
    if "://" in name or os.path.isfile(name):
        return [name]
    if os.path.isdir(name):
        found = [each.path for each in os.scandir(name) if each.is_file()]
    elif glob.has_magic(name):
        found = [path for path in glob.glob(name, recursive=True) if os.path.isfile(path)]
    else:
        raise FileNotFoundError(f"there is no image, folder or pattern {name}")
    found = sorted(path for path in found if path.lower().endswith(IMAGE_ENDINGS))
    if not found:
        raise FileNotFoundError(f"{name} has no image ({', '.join(IMAGE_ENDINGS)})")
    return found


def image_name(image: Image, number: int) -> str:
    """Path of an image, or a number for an array."""
    if isinstance(image, dict):
        return image_name(image.get("img_path", image.get("img")), number)
    return image if isinstance(image, str) else f"{number:08d}"


def unique_stems(images: Sequence[Image]) -> list[str]:
    """A name for the results of each image: its file's, with a number if it is taken already."""
    stems: list[str] = []
    taken: set[str] = set()
    for index, image in enumerate(images):
        stem = Path(image_name(image, index)).stem
        name, number = stem, 2
        while name in taken:
            name, number = f"{stem}_{number}", number + 1
        taken.add(name)
        stems.append(name)
    return stems


def read_image(image: str | np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    if isinstance(image, np.ndarray):
        return np.ascontiguousarray(image[..., ::-1])
    import mmcv
    import mmengine

    return mmcv.imfrombytes(mmengine.fileio.get(image), channel_order="rgb")
