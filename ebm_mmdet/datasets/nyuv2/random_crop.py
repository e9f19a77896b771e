"""The random crop with which ROCK trains."""

from __future__ import annotations

import math
import random

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import autocast_box_type

from .covered_image import note_image, refuse_another_image
from .maps import apply_to_maps, refuse_other_sizes, zoom_maps

__all__ = ["ROCKRandomCrop"]

_NO_CROP = "no crop"
_ROUNDS = 1000
"""Options to try before an image stays whole: boxes that are not finite would fit no crop."""


@TRANSFORMS.register_module()
class ROCKRandomCrop(BaseTransform):
    """Crop an image with its boxes, masks and maps, as in the training of ROCK.

    One of eight options is chosen with equal probability: a crop whose IoU with every box is
    above 0.1, 0.3, 0.5, 0.7 or 0.9; a crop without this condition (twice); no crop. A crop
    has the aspect ratio of the image and the fraction ``w = sqrt(u)`` of its sides, with u uniform
    in [0.1, 1], at a uniform position. After 30 crops that do not meet the condition, the
    option is chosen again.

    Boxes whose centre is inside the crop are kept, and clipped to it; a crop without such a box
    counts as one that does not meet the condition. An image without a box is not cropped. Boxes
    that are marked as ignored are cropped like the others, but no condition holds for them.

    The crop is meant to be resized to the size of the image, so that it becomes a zoom by 1 / w:
    depth is multiplied by w, and the z component of normals divided by w (see
    :func:`ebm_mmdet.datasets.nyuv2.maps.zoom_maps`). w is the square root of the share of the
    image's area after rounding to whole pixels.

    Args:
        force_crops: Leave out the option of no crop, and one of the two without a condition.
        min_ious: IoUs that all boxes must exceed.
        min_area: Smallest area of a crop as share of the image, in (0, 1].
        tries: Crops to try before another option is chosen.

    Source: Mordan, Thome, Henaff and Cord, "Revisiting Multi-Task Learning with ROCK", NeurIPS
    2018, and vita-epfl/rock-pytorch.
    """

    def __init__(
        self,
        force_crops: bool = False,
        min_ious: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_area: float = 0.1,
        tries: int = 30,
    ) -> None:
        if not 0 < min_area <= 1:
            raise ValueError(f"min_area is {min_area}; expected a share of the image in (0, 1]")
        if any(not 0 <= iou < 1 for iou in min_ious):
            raise ValueError(f"min_ious are {min_ious}; expected IoUs in [0, 1)")
        self.force_crops = force_crops
        self.min_ious = tuple(min_ious)
        self.min_area = min_area
        self.tries = tries
        self.options = (*self.min_ious, None) if force_crops else (*self.min_ious, None, None)
        if not force_crops:
            self.options += (_NO_CROP,)

    @autocast_box_type()
    def transform(self, results: dict) -> dict:
        """Crop everything in the results by one rectangle, or return them unchanged.

        Raises:
            ValueError: A map has other sides than the image, or is not that of it any more.
        """
        refuse_other_sizes(results, type(self).__name__)
        refuse_another_image(results, type(self).__name__)
        height, width = results["img"].shape[:2]
        boxes = results["gt_bboxes"].tensor.numpy().astype(np.float64)
        ignored = np.asarray(results.get("gt_ignore_flags", np.zeros(len(boxes), bool)), bool)
        patch = self._choose_patch(boxes[~ignored], height, width)
        if patch is None:
            return results
        self._crop(results, boxes, patch)
        left, top, right, bottom = patch
        zoom_maps(results, math.sqrt((right - left) * (bottom - top) / (height * width)))
        note_image(results)
        return results

    @cache_randomness
    def _choose_patch(self, boxes: np.ndarray, height: int, width: int) -> np.ndarray | None:
        """A crop ``(left, top, right, bottom)`` in whole pixels, or None for no crop."""
        if not len(boxes):
            return None
        for _ in range(_ROUNDS):
            option = random.choice(self.options)
            if option == _NO_CROP:
                return None
            for _ in range(self.tries):
                patch = self._sample_patch(height, width)
                if option is not None and not (_ious(boxes, patch) > option).all():
                    continue
                if _centres_inside(boxes, patch).any():
                    return patch
        return None

    def _sample_patch(self, height: int, width: int) -> np.ndarray:
        fraction = math.sqrt(random.uniform(self.min_area, 1))
        w = max(round(fraction * width), 1)
        h = max(round(fraction * height), 1)
        left, top = random.randint(0, width - w), random.randint(0, height - h)
        return np.array([left, top, left + w, top + h])

    @staticmethod
    def _crop(results: dict, boxes: np.ndarray, patch: np.ndarray) -> None:
        left, top, right, bottom = (int(side) for side in patch)
        keep = _centres_inside(boxes, patch)
        kept = results["gt_bboxes"][keep]
        kept.translate_([-left, -top])
        kept.clip_([bottom - top, right - left])
        results["gt_bboxes"] = kept
        for key in ("gt_bboxes_labels", "gt_ignore_flags"):
            if results.get(key) is not None:
                results[key] = results[key][keep]
        if results.get("gt_masks") is not None:
            results["gt_masks"] = results["gt_masks"][np.nonzero(keep)[0]].crop(patch)
        window = (slice(top, bottom), slice(left, right))
        results["img"] = np.ascontiguousarray(results["img"][window])
        results["img_shape"] = results["img"].shape[:2]
        apply_to_maps(results, lambda values: values[window])

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(force_crops={self.force_crops}, min_ious={self.min_ious}, "
            f"min_area={self.min_area}, tries={self.tries})"
        )


def _ious(boxes: np.ndarray, patch: np.ndarray) -> np.ndarray:
    """IoU ``(n,)`` of boxes ``(n, 4)`` with one rectangle ``(4,)``, all xyxy."""
    lower, upper = np.maximum(boxes[:, :2], patch[:2]), np.minimum(boxes[:, 2:], patch[2:])
    overlap = (upper - lower).clip(0).prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (patch[2:] - patch[:2]).prod() - overlap
    return overlap / union


def _centres_inside(boxes: np.ndarray, patch: np.ndarray) -> np.ndarray:
    """Which boxes ``(n, 4)`` have their centre inside a rectangle ``(4,)``: bool ``(n,)``."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centres > patch[:2]) & (centres < patch[2:])).all(1)
