"""Flips and resizes of an image together with its maps."""

from __future__ import annotations

import mmcv
import numpy as np
from mmdet.datasets.transforms import RandomFlip, Resize
from mmdet.registry import TRANSFORMS

from .covered_image import note_image, refuse_another_image
from .maps import apply_to_maps, nearest, refuse_partial_cells

__all__ = ["RandomFlipWithMaps", "ResizeWithMaps"]

_SIGNS = {"horizontal": (-1, 1, 1), "vertical": (1, -1, 1), "diagonal": (-1, -1, 1)}


@TRANSFORMS.register_module()
class RandomFlipWithMaps(RandomFlip):
    """mmdet's ``RandomFlip``, also for depth, normals and their mask.

    The x component of normals is negated by a horizontal flip, the y component by a vertical one.
    Arguments are those of ``RandomFlip``, for example ``prob=0.5``.

    Raises:
        ValueError: Maps are not those of the image any more, or have a stride that its sides are
            not multiples of.
    """

    def transform(self, results: dict) -> dict:
        """Flip or not; see the class."""
        refuse_another_image(results, type(self).__name__)
        return super().transform(results)

    def _flip(self, results: dict) -> None:
        refuse_partial_cells(results, type(self).__name__)
        super()._flip(results)
        direction = results["flip_direction"]
        apply_to_maps(results, lambda values: mmcv.imflip(values, direction))
        if results.get("gt_normals") is not None:
            results["gt_normals"] = results["gt_normals"] * np.array(_SIGNS[direction], np.float32)
        note_image(results)


@TRANSFORMS.register_module()
class ResizeWithMaps(Resize):
    """mmdet's ``Resize``; depth, normals and their mask take the value of the nearest pixel.

    Values do not change: this resizes the picture of a scene, and does not zoom in (see
    `ROCKRandomCrop`). Arguments are those of ``Resize``, for example ``scale=(640, 480)``.
    """

    def transform(self, results: dict) -> dict:
        """Resize image, boxes, masks and maps.

        Raises:
            ValueError: Maps are not those of the image any more, or have a stride that its sides
                are not multiples of.
        """
        refuse_partial_cells(results, type(self).__name__)
        refuse_another_image(results, type(self).__name__)
        results.pop("map_stride", None)  # afterwards there is a value for each pixel again
        results = super().transform(results)
        size = results["img_shape"][:2]
        apply_to_maps(results, lambda values: nearest(values, size))
        note_image(results)
        return results
