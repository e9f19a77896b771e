"""Warnings where images have more objects than detections count or are kept, and none elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from pycocotools.coco import COCO

from ebm_mmdet.evaluation.crowded_images import crowded_images, cut_detections, most_objects


def truth(objects: Sequence[int], categories: int = 1, crowds: int = 0) -> COCO:
    """Images 1, 2, ... with so many objects, in turns of the categories 1, 2, ..."""
    found = COCO()
    annotations = []
    for image, number in enumerate(objects, 1):
        for index in range(number + crowds):
            category, crowd = 1 + index % categories, int(index >= number)
            annotations.append(dict(image_id=image, category_id=category, iscrowd=crowd))
    for index, annotation in enumerate(annotations, 1):
        annotation.update(id=index, bbox=[0, 0, 9, 9], area=81)
    images = [dict(id=image) for image in range(1, len(objects) + 1)]
    found.dataset = dict(
        images=images,
        annotations=annotations,
        categories=[dict(id=each + 1, name=str(each)) for each in range(categories)],
    )
    found.createIndex()
    return found


def cut(objects: Sequence[int], detections: Sequence[int], **options) -> str | None:
    return cut_detections(truth(objects, **options), [1, 2], dict(enumerate(detections, 1)))


@pytest.mark.parametrize(
    ("objects", "detections"),
    [
        ([150], [100]),
        ([150, 3], [100, 7]),
        ([400, 40], [300, 250]),
        ([150, 160, 170, 20], [128, 128, 128, 60]),
        # An image that is full has no more objects: false positives fill it.
        ([150, 20, 20, 20], [128, 128, 128, 60]),
        # The detector finds less in another crowded image.
        ([150, 160, 20], [100, 90, 60]),
    ],
)
def test_a_limit_of_the_detector_shows(objects, detections):
    line = cut(objects, detections)
    assert f"exactly {max(detections)} detections" in line
    assert f"max_per_img={max(objects)}" in line


@pytest.mark.parametrize(
    ("objects", "detections"),
    [
        ([150], [150]),
        ([100, 3], [100, 7]),  # all can be found
        ([], []),
        ([5, 5], [0, 0]),
        ([216], [205]),  # it misses some
        ([216, 117], [187, 100]),
        ([216, 210], [205, 205]),  # alike by chance
        ([8, 9, 7, 8], [2, 2, 1, 2]),  # it finds little anywhere
        ([8, 9, 7, 8], [1, 1, 1, 1]),
        ([70] * 8, [50, 20, 31, 43, 9, 0, 12, 28]),  # a round number by chance
    ],
)
def test_a_detector_that_finds_less_has_no_limit(objects, detections):
    assert cut(objects, detections) is None


@pytest.mark.parametrize("share", [0.02, 0.3, 0.8, 0.95])
def test_detectors_without_a_limit_are_rarely_suspected(share):
    """Of images as those of BBBC039; a detector finds a share of the objects, at random."""
    rng, suspected = np.random.default_rng(0), 0
    for _ in range(5):
        objects = rng.integers(20, 216, 40)
        found, ids = truth(objects), range(1, 41)
        for _ in range(20):
            counts = rng.binomial(objects, share).tolist()
            suspected += cut_detections(found, [1], dict(zip(ids, counts))) is not None
    assert suspected <= 3


def test_a_limit_is_one_of_all_classes_together_and_of_no_other():
    assert cut([150], [100], categories=2)
    assert cut([150], [100], categories=3) is None  # 100 of them are of the two that are evaluated
    assert cut([100], [100], crowds=50) is None


def test_objects_of_the_evaluated_classes_are_counted():
    found = truth([150, 90], categories=3, crowds=6)
    assert most_objects(found, [1]) == 50
    assert most_objects(found, [1, 3]) == 100
    assert most_objects(found, [9]) == 0
    assert crowded_images(found, [1, 2, 3], 49)
    assert crowded_images(found, [1, 2, 3], 50) is None
    assert crowded_images(truth([150]), [2], 100) is None
    # The metric takes no less.
    assert "max_dets=100 or more" in crowded_images(truth([60]), [1], {"mAP": 100, "rest": 50})


@pytest.mark.parametrize(
    ("max_dets", "expected"),
    [
        (100, "more than 100 objects of a class (up to 150), but only 100 detections of an image"),
        ({"mAP": 100, "the others": 100}, "but only 100 detections of an image and class count,"),
        ({"mAP": 100, "the others": 1000}, "count are at most 100 in mAP and 1000 in the others,"),
        ({"mAP": 200, "the others": 120}, "more than 120 objects of a class (up to 150)"),
        ({"mAP": 150, "the others": 1000}, None),
    ],
)
def test_the_warning_tells_values_with_other_limits_apart(max_dets, expected):
    line = crowded_images(truth([150, 120]), [1], max_dets)
    assert line is None if expected is None else expected in line
    if max_dets == {"mAP": 100, "the others": 1000}:
        assert "only 100" not in line
