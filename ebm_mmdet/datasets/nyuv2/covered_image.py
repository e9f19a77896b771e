"""Whether maps still are those of their image: mmdet's own transforms leave maps as they are.

The transforms of this package note after each change which image the maps cover. What moves the
image alone shows in mmdet's ``homography_matrix``, in ``flip`` or in the sides of the image.
mmdet's ``RandomAffine``, ``RandomShift``, ``MixUp`` and ``Albu`` leave no such trace unless they
change the sides, and are then not noticed.
"""

from __future__ import annotations

import numpy as np

from .maps import MAPS

__all__ = ["note_image", "note_maps", "refuse_another_image"]

_NOTE = "maps_of_image"
_AS_LOADED = {"homography": np.eye(3), "flip": False}


def note_image(results: dict) -> None:
    """Note that the maps cover the image as it is now, whatever their own sides are.

    Args:
        results: A pipeline's results, with ``img`` or ``img_shape``; without maps there is nothing
            to note.
    """
    sides, keys = _image_sides(results), _present(results)
    if keys:
        results[_NOTE] = {
            "sides": dict.fromkeys(keys, sides),
            "homography": _homography(results),
            "flip": bool(results.get("flip")),
        }


def note_maps(results: dict) -> None:
    """Note the sides of maps that are about to get others, unless that is known.

    Args:
        results: A pipeline's results, whose maps have a value for each pixel of the image that they
            cover.
    """
    keys = _present(results)
    if keys and _NOTE not in results:
        sides = {key: results[key].shape[:2] for key in keys}
        results[_NOTE] = {"sides": sides, **_AS_LOADED}


def refuse_another_image(results: dict, transform: str, padded: bool = False) -> None:
    """Refuse maps that do not cover the image, because something has moved the image alone.

    A whole image that mmdet's ``Resize`` has scaled is covered still, unless the maps have a stride
    in pixels.

    Args:
        results: A pipeline's results; maps may be missing.
        transform: Name of the transform that looks, for the message.
        padded: Whether the image may be padded at the right and at the bottom, if the maps have a
            stride.

    Raises:
        ValueError: The image was mirrored, cropped, padded or turned, and the maps were not.
    """
    image, keys = _image_sides(results), _present(results)
    if image is None or not keys:
        return
    note = results.get(_NOTE) or {"sides": {}, **_AS_LOADED}
    moved = _homography(results) @ np.linalg.inv(note["homography"])
    scales = moved.diagonal()[1::-1]  # of height and width
    if results.get("flip") and not note["flip"]:
        _refuse(transform, keys[0], f"mirrored (flip_direction={results.get('flip_direction')!r})")
    offset, turn = np.abs(moved[:2, 2]).max(), np.abs(moved[[0, 1], [1, 0]]).max()
    # A hundredth of a pixel: scales are float32.
    if offset > 0.01 or turn > 1e-5 or (scales <= 0).any():
        matrix = np.round(moved, 3).tolist()
        _refuse(transform, keys[0], f"moved (homography {matrix})")
    stride = results.get("map_stride")
    for key in keys:
        sides = np.array(note["sides"].get(key, results[key].shape[:2]))
        covered = [sides] if stride else [sides, np.rint(sides * scales)]
        fits = any((each == image).all() for each in covered)
        if padded and stride and results.get("pad_shape") is not None:
            fits = fits or (sides <= image).all()
        if not fits:
            _refuse(transform, key, f"changed from {tuple(sides.tolist())} to {image} pixels")


def _refuse(transform: str, key: str, change: str) -> None:
    raise ValueError(
        f"{transform}: {key} is not that of the image any more, which was {change} without it. Use "
        "RandomFlipWithMaps, ResizeWithMaps and ROCKRandomCrop instead of transforms that leave "
        "maps as they are (RandomFlip, Resize, RandomCrop, Pad, Expand); images are padded by the "
        "model's data_preprocessor"
    )


def _present(results: dict) -> list[str]:
    return [key for key in MAPS if results.get(key) is not None]


def _homography(results: dict) -> np.ndarray:
    """(3, 3) float64 from pixels of the image as it was loaded to those of the image now."""
    matrix = results.get("homography_matrix")
    return np.eye(3) if matrix is None else np.asarray(matrix, np.float64)


def _image_sides(results: dict) -> tuple[int, int] | None:
    """Height and width of the image; None if the results have none."""
    shape = results.get("img_shape") if results.get("img") is None else results["img"].shape
    return None if shape is None else (int(shape[0]), int(shape[1]))
