"""Read an image file into what the pipelines take: three channels of 8 bits."""

from __future__ import annotations

import os
import stat

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from mmengine.fileio import get
from mmengine.logging import print_log

__all__ = ["LoadRegressionImage", "find_missing_files", "read_image", "to_8_bit"]


def find_missing_files(paths: list[str]) -> list[tuple[int, str]]:
    """Find local files that cannot be used, without reading them.

    Args:
        paths: paths of files; those with a scheme, such as ``s3://``, are not looked at.

    Returns:
        For each file that is not there, or that is not a file or cannot be reached, its number and
        what is wrong with it.
    """
    wrong = []
    for number, path in enumerate(paths):
        if "://" in path:
            continue
        try:
            status = os.stat(path)
        except FileNotFoundError:
            wrong.append((number, "does not exist"))
        except OSError as error:  # no permission, say: the file may well be there
            wrong.append((number, f"cannot be reached ({error.strerror})"))
        else:
            if not stat.S_ISREG(status.st_mode):
                wrong.append((number, "is not a file"))
            elif not status.st_size:
                wrong.append((number, "is empty"))
    return wrong


def to_8_bit(image: np.ndarray, value_range: tuple[float, float] | None, source: str) -> np.ndarray:
    """Convert an image of any depth to uint8, by a linear map that clips.

    Args:
        image: uint8, uint16 or a floating type, any shape.
        value_range: values that become 0 and 255. If None, uint8 is unchanged, uint16 has the
            range (0, 65535), and others are an error.
        source: name of the image, for messages.

    Returns:
        uint8 of the same shape.

    Raises:
        ValueError: the type has no range of its own, or a value is not finite.
    """
    if value_range is None:
        if image.dtype == np.uint8:
            return image
        if image.dtype != np.uint16:
            raise ValueError(
                f"{source} holds {image.dtype} values, which have no natural range; set "
                "value_range=(darkest, brightest)"
            )
        if 0 < image.max() < 4096:
            print_log(
                f"{source} has 16 bits but no value above {image.max()}: as the range is 0 to "
                "65535, it becomes nearly black. Set value_range, such as (0, 4095) for 12 bits.",
                logger="current",
                level=30,
            )
        value_range = (0, 65535)
    low, high = value_range
    if not low < high:
        raise ValueError(f"value_range={value_range}; expected (darkest, brightest) with < between")
    values = image.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{source} holds values that are not finite")
    scaled = (values - low) * (255 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _three_channels(image: np.ndarray | None) -> np.ndarray | None:
    if image is None:
        return None
    if image.ndim == 2:
        image = image[..., None]
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]


def read_image(
    path: str,
    value_range: tuple[float, float] | None = None,
    backend_args: dict | None = None,
) -> np.ndarray:
    """Read an image file.

    A grey image becomes three equal channels, transparency is dropped, a photograph is turned as
    its EXIF data say, and more than 8 bits are converted by `to_8_bit`.

    Args:
        path: file or address.
        value_range: see `to_8_bit`.
        backend_args: arguments of mmengine's file client.

    Returns:
        ``(H, W, 3)`` uint8 BGR.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an image that OpenCV can read, or its values have no range.
    """
    try:
        content = get(path, backend_args=backend_args)
    except FileNotFoundError:
        raise FileNotFoundError(f"the image {path} does not exist") from None
    image = None
    if content:
        data = np.frombuffer(content, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        if image is None:  # a grey TIFF of floating point is only read unchanged
            image = _three_channels(cv2.imdecode(data, cv2.IMREAD_UNCHANGED))
    if image is None:
        raise ValueError(
            f"the image {path} ({len(content)} bytes) cannot be decoded: it is broken, or of a "
            "format that OpenCV does not know"
        )
    return to_8_bit(image, value_range, path)


@TRANSFORMS.register_module()
class LoadRegressionImage(BaseTransform):
    """Load ``img`` (H, W, 3) uint8 BGR from ``img_path``, with a defined result for any depth.

    Data sets that bring their image along (generated ones, published arrays, crops) need no such
    transform, and it leaves their ``img`` as it is. Adds ``img_shape`` and ``ori_shape``.

    Args:
        value_range: values of the file that become 0 and 255; None for the range of 8 or 16 bits.
        backend_args: arguments of mmengine's file client.
    """

    def __init__(
        self,
        value_range: tuple[float, float] | None = None,
        backend_args: dict | None = None,
    ) -> None:
        self.value_range = value_range
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Load; see the class."""
        if "img" not in results:
            results["img"] = read_image(results["img_path"], self.value_range, self.backend_args)
        results["img_shape"] = results["ori_shape"] = results["img"].shape[:2]
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(value_range={self.value_range})"
