"""Objects that annotators box in several ways: a detection is right if it matches any of them.

An annotation in COCO's format may have a key ``conventions``, a list of boxes
``[x, y, width, height]`` that are all right for this object, such as with and without its shadow;
``bbox`` is the one that was annotated. The overlap of a detection and an object is then

    IoU = max_k IoU(detection, conventions_k)

and everything else (matching, thresholds, average precision) is COCO's. It is exactly COCO's for
objects without that key, or with one convention. An object counts once: a second detection, even
with the box of another convention, is a false positive.
"""

from __future__ import annotations

import math

import numpy as np
from mmdet.datasets.api_wrappers import COCOeval, COCOevalMP

from ..box_iou import box_iou
from ..datasets import AnnotationError

__all__ = [
    "ConventionCOCOeval",
    "ConventionCOCOevalMP",
    "best_convention_iou",
    "boxes_of",
    "check_conventions",
]


def boxes_of(annotation: dict) -> np.ndarray:
    """All right boxes of an annotation, (K, 4) ``(x1, y1, x2, y2)`` float64; the first is bbox."""
    boxes = np.array([annotation["bbox"], *annotation.get("conventions", ())], float)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def best_convention_iou(box: np.ndarray, annotation: dict) -> float:
    """Largest IoU of a box (4,) ``(x1, y1, x2, y2)`` with a right box of an annotation."""
    return float(box_iou(box, boxes_of(annotation)).max())


def check_conventions(content: dict, source: str) -> None:
    """Check the key ``conventions`` of all annotations, before anything is evaluated.

    Args:
        content: an annotation file in COCO's format.
        source: its name, for messages.

    Raises:
        AnnotationError: it is not a list of boxes, or ``bbox`` is not among them.
    """
    for annotation in content["annotations"]:
        if "conventions" not in annotation:
            continue
        where = f"{source}: conventions of annotation {annotation.get('id')}"
        boxes = annotation["conventions"]
        if not isinstance(boxes, list) or not boxes or not all(map(_is_box, boxes)):
            raise AnnotationError(
                f"{where} are {boxes!r}; expected a list of boxes [x, y, width, height], finite "
                "and not negative in size"
            )
        if not any(np.allclose(box, annotation["bbox"], rtol=0, atol=1e-3) for box in boxes):
            raise AnnotationError(
                f"{where} are {boxes}, without its bbox {annotation['bbox']}; the annotated box "
                "must be one of them"
            )


def _is_box(box: object) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(x, (int, float)) and math.isfinite(x) for x in box)
        and min(box[2:]) >= 0
    )


class _ConventionIoU:
    """Mixin for ``COCOeval``: overlaps are those with the better convention."""

    def computeIoU(self, imgId, catId):
        """Overlaps (detections, objects) of an image and a class, or an empty list."""
        ious = super().computeIoU(imgId, catId)
        key = (imgId, catId) if self.params.useCats else None
        objects = self._gts[key] if key else []
        number = max((len(each.get("conventions", ())) for each in objects), default=0)
        if not len(ious) or number < 2:
            return ious
        try:
            for k in range(number):
                self._gts[key] = [_with_convention(each, k) for each in objects]
                ious = np.maximum(ious, super().computeIoU(imgId, catId))
        finally:
            self._gts[key] = objects
        return ious


def _with_convention(annotation: dict, k: int) -> dict:
    boxes = annotation.get("conventions", ())
    return {**annotation, "bbox": boxes[k]} if k < len(boxes) else annotation


class ConventionCOCOeval(_ConventionIoU, COCOeval):
    """pycocotools' box evaluation against the better-matching convention; classes are used."""


class ConventionCOCOevalMP(_ConventionIoU, COCOevalMP):
    """mmdet's evaluation in several processes, against the better-matching convention."""
