"""Images that a user names: by path, folder, pattern, or as arrays."""

from __future__ import annotations

import glob
import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..files import file_digest

__all__ = [
    "IMAGE_ENDINGS",
    "Image",
    "image_digest",
    "image_name",
    "list_images",
    "read_image",
    "unique_stems",
]

Image = str | np.ndarray | dict
"""Path or URL, (H, W, 3) uint8 BGR, or a dictionary with one of them as ``img_path`` or ``img``."""

IMAGE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def list_images(inputs) -> list[Image]:
    """All images of ``inputs``, those of a folder or pattern in the order of their names.

    A file that is named more than once, such as by patterns that overlap, is there once, and a
    warning says so. Links to one file are images of their own.

    Args:
        inputs: an image, a folder, a pattern with ``*``, or a list of these.

    Raises:
        FileNotFoundError: there is no such path, a folder has no image, or a pattern matches none.
        TypeError: an input is of another type, or an array of another shape or dtype.
        ValueError: an array has no pixels.
    """
    found: dict[object, Image] = {}
    repeated = []
    for image in _each_image(inputs):
        key = _place(image)
        if key in found:
            repeated.append(image)
        else:
            found[key] = image
    if repeated:
        number = "1 image is" if len(repeated) == 1 else f"{len(repeated)} images are"
        warnings.warn(
            f"{number} named again, such as {image_name(repeated[0], 0)}; each is predicted once",
            stacklevel=2,
        )
    return list(found.values())


def _each_image(inputs) -> list[Image]:
    """The images of :func:`list_images`, with repetitions."""
    if isinstance(inputs, (list, tuple)):
        return [image for each in inputs for image in _each_image(each)]
    if isinstance(inputs, np.ndarray):
        _check_array(inputs)
        return [inputs]
    if isinstance(inputs, dict):
        if "img" in inputs:
            _check_array(inputs["img"])
        elif not isinstance(inputs.get("img_path"), (str, os.PathLike)):
            raise TypeError(
                f"an input is a dictionary of {', '.join(map(str, inputs)) or 'nothing'}; expected "
                "img_path, a path, or img, an array"
            )
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


def _check_array(image: object) -> None:
    """Raise unless an array is (H, W, 3) uint8 with pixels."""
    if not isinstance(image, np.ndarray):
        raise TypeError(f"an image is {type(image).__name__}; expected an array (H, W, 3) uint8")
    if image.ndim != 3 or image.shape[2] != 3:
        raise TypeError(
            f"an input is an array of shape {image.shape}; expected (H, W, 3) uint8, BGR. A grey "
            "one becomes that by cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)"
        )
    if image.dtype != np.uint8:
        raise TypeError(
            f"an input is an array of {image.dtype}; expected uint8, BGR, 0 to 255. Values from 0 "
            "to 1 become that by (255 * image).round().astype(np.uint8), 16 bits by "
            "(image // 257).astype(np.uint8)"
        )
    if not image.size:
        raise ValueError(f"an input is an array of shape {image.shape}, which has no pixels")


def _place(image: Image) -> object:
    """Equal for two names of one file; any other image has one of its own."""
    if isinstance(image, dict) and image.keys() == {"img_path"}:
        image = os.fspath(image["img_path"])
    if not isinstance(image, str):
        return object()
    if "://" in image:
        return image
    # Not the file that a link leads to: some stores keep equal images once, and link to them.
    return os.path.join(os.path.realpath(os.path.dirname(image)), os.path.basename(image))


def image_digest(image: Image) -> str:
    """A text that differs for other pixels, or for other keys of a dictionary.

    Raises:
        OSError: the file cannot be read; or what mmengine raises for a URL.
    """
    digest = hashlib.sha256()
    for key, value in sorted(image.items()) if isinstance(image, dict) else [("", image)]:
        if isinstance(value, np.ndarray):
            digest.update(f"{key} {value.shape} {value.dtype}".encode())
            digest.update(np.ascontiguousarray(value).data)
        elif key in ("", "img_path"):
            digest.update(f"{key} {_content_digest(os.fspath(value))}".encode())
        else:
            digest.update(f"{key} {value!r}".encode())
    return digest.hexdigest()


def _content_digest(name: str) -> str:
    if "://" not in name:
        return file_digest(name)
    import mmengine

    return hashlib.sha256(mmengine.fileio.get(name)).hexdigest()


def image_name(image: Image, number: int) -> str:
    """Path of an image, or a number for an array."""
    if isinstance(image, dict):
        return image_name(image.get("img_path", image.get("img")), number)
    return os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"{number:08d}"


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
