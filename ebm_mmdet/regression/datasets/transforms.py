"""Transforms of images with a target; those that move pixels change the target with them.

Random numbers come from Python's ``random``, which mmengine seeds in every worker.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS

__all__ = ["RandomFlipTarget", "RandomLight", "RandomQuarterTurns", "RandomScaleCrop"]


@TRANSFORMS.register_module()
class RandomFlipTarget(BaseTransform):
    r"""Mirror the image left to right with some probability, and its target with it.

        y'_d = sign_d y_d          so that flipping twice is the identity

    ``gt_target`` becomes a new array: the one of the data set stays as it is. The density of a
    mirrored label given the mirrored image is that of the label given the image, so
    ``oracle_log_prob`` stays, and ``oracle_means`` are mirrored. Adds ``flip``, ``target_flip``
    (whether the target is mirrored) and the ``flip_signs`` that were used.

    Args:
        prob: probability of mirroring.
        signs: 1 or -1 for each coordinate, such as (-1, 1, -1) for yaw, pitch, roll; None for
            the ``flip_signs`` of the data set's metainfo.

    Raises:
        ValueError: the signs are not known, or not as many as the target has coordinates.
    """

    def __init__(self, prob: float = 0.5, signs: Sequence[float] | None = None) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"prob={prob}; expected a probability")
        if signs is not None and not all(sign in (-1, 1) for sign in signs):
            raise ValueError(f"signs={tuple(signs)}; each must be 1 or -1")
        self.prob = prob
        self.signs = None if signs is None else tuple(signs)

    def transform(self, results: dict) -> dict:
        """Flip or not; see the class."""
        signs = self.signs if self.signs is not None else results.get("flip_signs")
        if signs is None:
            raise ValueError(
                f"{results.get('img_path', 'an image')} cannot be mirrored, because its target "
                "then is not known: set flip_signs in metainfo['target'], such as (-1,) for an "
                "angle of steering or (1,) for a count, or leave RandomFlipTarget out"
            )
        flip = bool(random.random() < self.prob)
        results["flip"] = flip != results.get("flip", False)
        # PackRegressionInputs compares: mmdet's RandomFlip mirrors the image alone.
        results["target_flip"] = flip != results.get("target_flip", False)
        results["flip_signs"] = tuple(signs)
        if not flip:
            return results
        factors = np.asarray(signs, np.float32)
        results["img"] = np.ascontiguousarray(results["img"][:, ::-1])
        for key in ("gt_target", "oracle_means"):
            if results.get(key) is None:
                continue
            value = np.asarray(results[key], np.float32)
            if value.shape[-1:] != factors.shape:
                raise ValueError(
                    f"{len(factors)} signs {tuple(signs)} for the target {value.tolist()}"
                )
            results[key] = value * factors + 0.0  # no negative zero
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(prob={self.prob}, signs={self.signs})"


@TRANSFORMS.register_module()
class RandomScaleCrop(BaseTransform):
    """Scale the image by a random factor and cut a square out of it at a random place.

    An image that is smaller than the square is padded with zeros at the right and at the bottom.
    The target stays: this is for targets that do not depend on size and place, such as the pose
    of a head (Gustafsson et al., AISTATS 2022), but not for counts.

    Args:
        size: width and height of the result in pixels.
        scales: factors, one of which is drawn.
    """

    def __init__(
        self,
        size: int = 64,
        scales: Sequence[float] = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5),
    ) -> None:
        if size < 1 or not scales or min(scales) <= 0:
            raise ValueError(f"size={size}, scales={tuple(scales)}; expected positive values")
        self.size = int(size)
        self.scales = tuple(scales)

    def transform(self, results: dict) -> dict:
        """Scale, pad and crop; see the class."""
        image = results["img"]
        scale = random.choice(self.scales)
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        if (height, width) != image.shape[:2]:
            how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            image = cv2.resize(image, (width, height), interpolation=how)
        below, right = max(0, self.size - height), max(0, self.size - width)
        if below or right:
            image = np.pad(image, ((0, below), (0, right), (0, 0)))
        top = random.randrange(image.shape[0] - self.size + 1)
        left = random.randrange(image.shape[1] - self.size + 1)
        image = image[top : top + self.size, left : left + self.size]
        results["img"] = np.ascontiguousarray(image)
        results["img_shape"] = image.shape[:2]
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size}, scales={self.scales})"


@TRANSFORMS.register_module()
class RandomLight(BaseTransform):
    """Change brightness and contrast at random: ``x' = (x - m) (1 + c) + m + 255 b``, clipped.

    Here m is the mean of the image, c ~ U(-contrast, contrast) and b ~ U(-brightness, brightness).
    The target stays.

    Args:
        brightness: largest change of the brightness, as a share of white.
        contrast: largest change of the contrast, as a share of it, below 1.
    """

    def __init__(self, brightness: float = 0.1, contrast: float = 0.2) -> None:
        if brightness < 0 or not 0 <= contrast < 1:
            raise ValueError(
                f"brightness={brightness}, contrast={contrast}; expected >= 0, and contrast < 1"
            )
        self.brightness, self.contrast = brightness, contrast

    def transform(self, results: dict) -> dict:
        """Change the light; see the class."""
        image = results["img"].astype(np.float32)
        gain = 1 + random.uniform(-self.contrast, self.contrast)
        shift = 255 * random.uniform(-self.brightness, self.brightness)
        mean = image.mean()
        image = (image - mean) * gain + (mean + shift)
        results["img"] = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(brightness={self.brightness}, contrast={self.contrast})"


@TRANSFORMS.register_module()
class RandomQuarterTurns(BaseTransform):
    """Turn the image by 0, 90, 180 or 270 degrees, each as likely as the others.

    The target stays: this is for pictures without up and down, such as cells to be counted. With
    `RandomFlipTarget` it gives all eight symmetries of a square.
    """

    def transform(self, results: dict) -> dict:
        """Turn; see the class."""
        turned = np.rot90(results["img"], random.randrange(4))
        results["img"] = np.ascontiguousarray(turned)
        results["img_shape"] = turned.shape[:2]
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
