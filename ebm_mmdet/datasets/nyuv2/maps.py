"""Maps beside an image: depth, surface normals, and the mask of the valid normals.

In a pipeline they are ``gt_depth`` ``(H, W)`` float32 in metres, where a value that is not
positive or not finite is unknown; ``gt_normals`` ``(H, W, 3)`` float32 unit vectors in the frame of
the camera (x right, y up, z towards the viewer); ``gt_normals_mask`` ``(H, W)`` bool, true where
the normals are valid. Each of them may be missing.

Files of depth are ``.npy`` (float32, metres) or 16-bit PNG (millimetres). Normals are 8-bit RGB PNG
files with ``(n + 1) / 2 * 255``, and their mask is a PNG file with one channel.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np

__all__ = [
    "MAPS",
    "apply_to_maps",
    "decode_depth",
    "decode_mask",
    "decode_normals",
    "encode_depth",
    "encode_mask",
    "encode_normals",
    "encode_png",
    "nearest",
    "refuse_other_sizes",
    "refuse_partial_cells",
    "unit_vectors",
    "zoom_maps",
]

MAPS = ("gt_depth", "gt_normals", "gt_normals_mask")
"""Keys of the maps in a pipeline's results."""


def apply_to_maps(results: dict, function: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace every map that is present by ``function(map)``; rows and columns come first."""
    for key in MAPS:
        if results.get(key) is not None:
            results[key] = np.ascontiguousarray(function(results[key]))


def nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a map to ``(height, width)``; each cell takes the value at its centre.

    Row i of the result is row ``floor((i + 1/2) H / height)`` of the map, likewise for columns.

    Args:
        values: ``(H, W, ...)``.
        size: Height and width of the result in pixels.

    Returns:
        ``(height, width, ...)``; the map itself if it has this size.
    """
    if values.shape[:2] == tuple(size):
        return values
    rows, columns = (
        ((2 * np.arange(new) + 1) * old) // (2 * new) for new, old in zip(size, values.shape)
    )
    return values[rows][:, columns]


def refuse_partial_cells(results: dict, transform: str) -> None:
    """Refuse to move pixels of maps with a stride whose last cells reach beyond the image.

    Args:
        results: A pipeline's results; ``map_stride`` is that of `AuxiliaryTargets`, if it has run.
        transform: Name of the transform that moves the pixels, for the message.

    Raises:
        ValueError: A side of the image is not a multiple of the stride.
    """
    stride = results.get("map_stride")
    if stride and any(side % stride for side in results["img_shape"][:2]):
        raise ValueError(
            f"{transform} would displace maps that AuxiliaryTargets has made with the stride "
            f"{stride}, because the sides {tuple(results['img_shape'][:2])} of the image are not "
            "multiples of it; put AuxiliaryTargets behind it, just before PackMultiTaskInputs"
        )


def refuse_other_sizes(results: dict, transform: str) -> None:
    """Refuse to crop maps by the pixels of an image that has other sides.

    Args:
        results: A pipeline's results.
        transform: Name of the transform that crops, for the message.

    Raises:
        ValueError: A map has other sides than the image.
    """
    sides = results["img"].shape[:2]
    for key in MAPS:
        if results.get(key) is not None and results[key].shape[:2] != sides:
            raise ValueError(
                f"{transform} crops pixels, and {key} has sides {results[key].shape[:2]} where the "
                f"image has {sides}; give maps of the size of the image, and put AuxiliaryTargets "
                "behind it, just before PackMultiTaskInputs"
            )


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Vectors ``(..., 3)`` float32 scaled to length 1; zero vectors stay zero."""
    vectors = vectors.astype(np.float32, copy=False)
    length = np.sqrt(_squared_lengths(vectors))
    return vectors / np.where(length == 0, np.float32(1), length)[..., None]


def zoom_maps(results: dict, fraction: float) -> None:
    """Change depth and normals as if the camera had zoomed in, in place.

    A crop whose sides are ``fraction`` times those of the image, shown at the size of the image,
    is what the same camera would see of a scene whose points ``(X, Y, Z)`` are moved to
    ``(X, Y, fraction Z)``. So depth becomes ``fraction * depth``, and a normal ``(x, y, z)``
    becomes ``(x, y, z / fraction)``, scaled to length 1.

    Args:
        results: A pipeline's results; maps that are missing stay missing.
        fraction: Side of the crop divided by side of the image, in (0, 1].
    """
    if results.get("gt_depth") is not None:
        results["gt_depth"] = results["gt_depth"] * np.float32(fraction)
    if results.get("gt_normals") is not None:
        scale = np.array([1, 1, 1 / fraction], np.float32)
        results["gt_normals"] = unit_vectors(results["gt_normals"] * scale)


def encode_png(values: np.ndarray) -> bytes:
    """A PNG file of ``values``, ``(H, W)`` or ``(H, W, 3)`` BGR, uint8 or uint16."""
    done, content = cv2.imencode(".png", values)
    if not done:
        raise ValueError(f"OpenCV cannot write a PNG file of {values.shape} {values.dtype}")
    return content.tobytes()


def encode_depth(depth: np.ndarray, ending: str = ".npy") -> bytes:
    """A file of depth: ``.npy`` keeps every bit; ``.png`` rounds to 1 mm.

    Args:
        depth: ``(H, W)`` in metres.
        ending: ``".npy"``, or ``".png"``, in which depths that are unknown or above 65.5 m are 0.

    Raises:
        ValueError: ``ending`` is neither of these.
    """
    if ending == ".npy":
        file = io.BytesIO()
        np.save(file, np.ascontiguousarray(depth, np.float32))
        return file.getvalue()
    if ending != ".png":
        raise ValueError(f"a file of depth ends with '.npy' or '.png', not {ending!r}")
    millimetres = np.rint(np.nan_to_num(depth * 1000.0, posinf=0.0, neginf=0.0))
    known = (millimetres >= 0) & (millimetres < 65536)
    return encode_png(np.where(known, millimetres, 0).astype(np.uint16))


def decode_depth(content: bytes, path: str) -> np.ndarray:
    """Depth ``(H, W)`` float32 in metres, from the content of a file.

    Args:
        content: The bytes of a ``.npy`` file or of a PNG file with 16 bits.
        path: Name of the file, for its ending and for messages.

    Raises:
        ValueError: The content is not such a file.
    """
    if path.endswith(".npy"):
        try:
            depth = np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path} is not a complete .npy file of numbers: {error}") from error
        if depth.ndim != 2 or depth.dtype.kind != "f":
            raise ValueError(
                f"{path} holds {depth.dtype} {depth.shape}; expected depth in metres, floating "
                "point numbers of shape (height, width)"
            )
        return depth.astype(np.float32, copy=False)
    depth = _decode(content, path, cv2.IMREAD_UNCHANGED)
    if depth.ndim != 2 or depth.dtype != np.uint16:
        raise ValueError(
            f"{path} holds {depth.dtype} {depth.shape}; expected depth in millimetres, a PNG file "
            "with one channel of 16 bits, or a .npy file with metres"
        )
    return depth.astype(np.float32) / 1000


def encode_normals(normals: np.ndarray) -> bytes:
    """A PNG file of normals ``(H, W, 3)`` with components in [-1, 1]."""
    values = np.rint((np.nan_to_num(normals) + 1) * 127.5).clip(0, 255).astype(np.uint8)
    return encode_png(values[..., ::-1])


def decode_normals(content: bytes, path: str) -> np.ndarray:
    """Unit vectors ``(H, W, 3)`` float32 from a PNG file; zero where it is grey (127 or 128).

    Args:
        content: The bytes of the file.
        path: Name of the file, for messages.
    """
    values = _decode(content, path, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) - 127.5
    normals = unit_vectors(values)
    normals[_squared_lengths(values) < 1] = 0  # all three are 1/2 or -1/2; the next value is 3/2
    return normals


def encode_mask(mask: np.ndarray) -> bytes:
    """A PNG file of a mask ``(H, W)`` bool: 255 where it is true."""
    return encode_png(np.where(mask, np.uint8(255), np.uint8(0)))


def decode_mask(content: bytes, path: str) -> np.ndarray:
    """A mask ``(H, W)`` bool from a PNG file: true where it is not 0."""
    return _decode(content, path, cv2.IMREAD_GRAYSCALE) > 0


def _squared_lengths(vectors: np.ndarray) -> np.ndarray:
    # Ten times as fast as a sum over the last axis, which is short.
    return np.einsum("...c,...c->...", vectors, vectors)


def _decode(content: bytes, path: str, flag: int) -> np.ndarray:
    values = cv2.imdecode(np.frombuffer(content, np.uint8), flag) if content else None
    if values is None:
        raise ValueError(f"{path} is not an image that OpenCV can read")
    return values
