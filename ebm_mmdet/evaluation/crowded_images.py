"""Images with more objects than detections are kept or count, of which COCO says nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from pycocotools.coco import COCO

__all__ = ["crowded_images", "cut_detections", "most_objects"]


def crowded_images(
    ground_truth: COCO, category_ids: Collection[int], max_dets: int | Mapping[str, int]
) -> str | None:
    """A warning if images have more objects of a class than detections of it count, or None.

    Recall is then bounded in silence. Crowds and the like (``iscrowd``) are not objects.

    Args:
        ground_truth: the annotations.
        category_ids: the evaluated categories.
        max_dets: detections of an image and class that count. If it depends on the value: a
            number for each, by the value's name.
    """
    counts = Counter(_objects(ground_truth, category_ids))
    numbers = {"": max_dets} if isinstance(max_dets, int) else max_dets
    least, most = min(numbers.values()), max(counts.values(), default=0)
    beyond = {image for (image, _), count in counts.items() if count > least}
    if not beyond:
        return None
    if len({*numbers.values()}) == 1:
        count = f"only {least} detections of an image and class count"
    else:
        each = " and ".join(f"{number} in {name}" for name, number in numbers.items())
        count = f"the detections of an image and class that count are at most {each}"
    return (
        f"{len(beyond)} of {len(ground_truth.imgs)} images have more than {least} objects of a "
        f"class (up to {most}), but {count}, and no detector can find more objects than that; set "
        f"max_dets={max(most, 100)} or more in the metric HighIoUCocoMetric, and max_per_img in "
        "the detector's test_cfg"
    )


def cut_detections(
    ground_truth: COCO, category_ids: Collection[int], detections: Mapping[int, int]
) -> str | None:
    """A warning if the detector seems to keep fewer boxes than images have objects, or None.

    Its limit is not known here, but it shows: half of the images with more objects, or more of
    them, have exactly as many detections as any image has at most. A detector that finds little
    has such a largest number too. Therefore nothing is said unless three images have it and it is
    at least 10, or it is a multiple of 50, as limits are.

    Args:
        ground_truth: the annotations.
        category_ids: the evaluated categories.
        detections: number of detections, of all these categories, by the id of the image.
    """
    counts = Counter(image for image, _ in _objects(ground_truth, category_ids))
    limit = max(detections.values(), default=0)
    full = {image for image, number in detections.items() if number == limit}
    beyond = {image for image in detections if counts[image] > limit}
    cut = full & beyond
    if not cut or 2 * len(cut) < len(beyond):
        return None
    if limit == 0 or (limit % 50 and (limit < 10 or len(full) < 3)):
        return None
    most = max(counts[image] for image in beyond)
    return (
        f"{len(cut)} of the {len(beyond)} images with more than {limit} objects (up to {most}) "
        f"have exactly {limit} detections, and no image has more: that looks like a limit of the "
        f"detector, which then cannot find all objects. Set max_per_img={most} or more where it is "
        "set: in test_cfg of the detector, candidates of the EBMDetector, or tta_cfg"
    )


def most_objects(ground_truth: COCO, category_ids: Collection[int]) -> int:
    """The largest number of objects of an image, of these categories together; no crowds."""
    counts = Counter(image for image, _ in _objects(ground_truth, category_ids))
    return max(counts.values(), default=0)


def _objects(ground_truth: COCO, category_ids: Collection[int]) -> Iterator[tuple[int, int]]:
    """Image and category of each object."""
    wanted = {*category_ids}
    for annotation in ground_truth.anns.values():
        if annotation["category_id"] in wanted and not annotation.get("iscrowd"):
            yield annotation["image_id"], annotation["category_id"]
