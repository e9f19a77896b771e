"""The image files that a file in COCO's format, or a list of results, speaks of."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from .image_list import IMAGE_ENDINGS

__all__ = ["ImageFile", "images_by_id", "is_id", "listed_images", "look_at"]

_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
"""The EXIF tag of the camera's orientation, and its values that swap width and height."""
_ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
"""What is in the last bytes of a complete file."""


@dataclass(frozen=True)
class ImageFile:
    """An image that boxes belong to."""

    id: int | str
    name: str
    """As in the file that lists it, or the id as text."""
    path: Path | None
    """None if there is no such image in the folder."""
    size: tuple[int, int] | None = None
    """(width, height) that the file states, or None."""


def is_id(value) -> bool:
    """Whether it can be an id: a list, as some tools write it, cannot even be looked up."""
    return isinstance(value, (int, float, str))


def listed_images(content: Mapping, folder: str | os.PathLike) -> dict[int | str, ImageFile]:
    """The ``images`` of a file in COCO's format, by id.

    A ``file_name`` is looked for in the folder, then its last part alone, unless another name has
    that part too: a/1.png and b/1.png are two images, and 1.png could be either.

    Args:
        content: content of the file.
        folder: folder of the images.

    Raises:
        ValueError: an image has no id or no ``file_name``, or two have one id.
    """
    found: dict[int | str, ImageFile] = {}
    names = set()
    for number, image in enumerate(content["images"]):
        if not isinstance(image, Mapping) or not {"id", "file_name"} <= image.keys():
            raise ValueError(f"images[{number}] is {image!r}; expected 'id' and 'file_name'")
        if not is_id(image["id"]):
            raise ValueError(
                f"images[{number}] has id {image['id']!r}; expected a number or a string"
            )
        if image["id"] in found:
            raise ValueError(f"images[{number}] has id {image['id']!r}, which another one has too")
        name = str(image["file_name"])
        names.add(Path(name))
        width, height = image.get("width"), image.get("height")
        size = (int(width), int(height)) if width and height else None
        found[image["id"]] = ImageFile(image["id"], name, None, size)
    shares = Counter(name.name for name in names)
    for key, each in found.items():
        places, last = [Path(folder, each.name)], Path(each.name).name
        if shares[last] == 1:
            places.append(Path(folder, last))
        path = next((place for place in places if place.is_file()), None)
        found[key] = replace(each, path=path)
    return found


def images_by_id(ids: Iterable[int | str], folder: str | os.PathLike) -> dict[int | str, ImageFile]:
    """Image files whose name is the id: that of the file, with or without its ending, or, for a
    number, a name that ends in it (COCO's 000000000139.jpg).

    An id that is a path may begin with one more folder (data/1.png for 1.png in the folder), unless
    another id is the same without that, or is what remains.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ValueError: an id fits several files.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
    if not files:
        raise FileNotFoundError(f"{folder} has no image ({', '.join(IMAGE_ENDINGS)})")
    names: dict[str, list[Path]] = {}
    for path in files:
        keys = {path.relative_to(folder).as_posix(), path.name, path.stem}
        digits = path.stem[len(path.stem.rstrip("0123456789")) :]
        if digits:
            keys.add(str(int(digits)))
        for key in keys:
            names.setdefault(key, []).append(path)
    found = {}
    rest = {each: "/".join(Path(str(each)).parts[1:]) for each in ids}
    shares = Counter(key for each, part in rest.items() for key in (str(each), part))
    for each, part in rest.items():
        matches = names.get(str(each)) or (names.get(part) if shares[part] == 1 else None) or []
        if len(matches) > 1:
            raise ValueError(
                f"image id {each!r} fits {matches[0]} and {matches[1]}; give the annotation file "
                "that lists the images (--ann)"
            )
        found[each] = ImageFile(each, str(each), matches[0] if matches else None)
    return found


def _has_its_end(path: Path, kind: str | None) -> bool:
    """Whether the file ends as complete files of its format do; False if that is not known."""
    mark = _ENDS.get(kind or "")
    if mark is None:
        return False
    with path.open("rb") as file:
        file.seek(-min(file.seek(0, os.SEEK_END), 64), os.SEEK_END)
        return mark in file.read()


def look_at(image: ImageFile) -> tuple[ImageFile, str | None]:
    """The image with the size that it has, and why its boxes cannot be used, or None.

    It may be absent, broken, cut off (a copy that was interrupted), or of another size than the
    file states. Of most images header and end alone are read, with the camera's orientation, as
    images are loaded. The reason is ``'kind: detail'``.
    """
    if image.path is None:
        return image, f"the image is not in the folder: {image.name}"
    try:
        with Image.open(image.path) as opened:
            width, height = opened.size
            if opened.getexif().get(_ORIENTATION) in _TURNED:
                width, height = height, width
            if not _has_its_end(image.path, opened.format):
                opened.load()  # raises if it is cut off
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # What Pillow raises for broken files, and for those of more than 179 megapixels.
        return image, f"the image cannot be read: {error}"
    fault = None
    if image.size not in (None, (width, height)):
        fault = (
            f"the image has another size than stated: {width} x {height}, not "
            f"{image.size[0]} x {image.size[1]}"
        )
    return replace(image, size=(width, height)), fault
