"""Images with more objects than an evaluation counts detections, of which COCO says nothing."""

from __future__ import annotations

from collections import Counter

from pycocotools.coco import COCO

__all__ = ["crowded_images"]


def crowded_images(ground_truth: COCO, max_dets: int) -> str | None:
    """A warning if images have more objects of a class than detections of it count, or None.

    Recall is then bounded in silence. Crowds and the like (``iscrowd``) are not objects.

    Args:
        ground_truth: the annotations.
        max_dets: detections of an image and class that count.
    """
    counts = Counter(
        (annotation["image_id"], annotation["category_id"])
        for annotation in ground_truth.anns.values()
        if not annotation.get("iscrowd")
    )
    beyond = {image for (image, _), count in counts.items() if count > max_dets}
    if not beyond:
        return None
    most = max(counts.values())
    return (
        f"{len(beyond)} of {len(ground_truth.imgs)} images have more than {max_dets} objects of a "
        f"class (up to {most}), but only {max_dets} detections of an image and class count, so "
        f"that no detector can find all; set max_dets={most} or more in the metric "
        "HighIoUCocoMetric, and max_per_img in the detector's test_cfg"
    )
