"""AP of weighted images equals COCO's AP of the images physically repeated."""

from __future__ import annotations

import contextlib
import copy
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ebm_mmdet.evaluation.average_precision import METRICS, MatchedDetections, coco_results

NUM_IMAGES = 6


def make_coco(images: list[dict], annotations: list[dict]) -> COCO:
    coco = COCO()
    coco.dataset = dict(
        images=images,
        annotations=annotations,
        categories=[dict(id=3, name="a"), dict(id=7, name="b")],
    )
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def make_world(seed: int) -> tuple[COCO, list[dict]]:
    """Random boxes, some of them crowd; detections near them, elsewhere, and in an empty image."""
    rng = np.random.default_rng(seed)
    images = [dict(id=10 + i, width=100, height=100) for i in range(NUM_IMAGES)]
    annotations, records = [], []
    for image in images[:-1]:
        for number in range(rng.integers(1, 6)):
            x, y, w, h = *rng.uniform(0, 60, 2), *rng.uniform(8, 30, 2)
            label = int(rng.integers(2))
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image["id"],
                    category_id=(3, 7)[label],
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=int(rng.random() < 0.15),
                )
            )
            box = np.array([x, y, x + w, y + h]) + rng.normal(0, 1.5, 4)
            # Few values, different within an image: ties between images are broken as in COCO.
            score = round(float(rng.random()), 1) + 0.01 * number
            records += coco_results(image["id"], box[None], [score], [label], [3, 7])
    for image in images:
        x, y = rng.uniform(0, 50, 2)
        box = np.array([[x, y, x + 20, y + 20]])
        records += coco_results(image["id"], box, [0.45], [int(rng.integers(2))], [3, 7])
    return make_coco(images, annotations), records


def repeated(truth: COCO, records: list[dict], counts: np.ndarray) -> tuple[COCO, list[dict]]:
    images, annotations, found = [], [], []
    for image, count in zip(truth.dataset["images"], counts):
        for _ in range(count):
            new = len(images) + 1000
            images.append({**image, "id": new})
            for annotation in truth.imgToAnns[image["id"]]:
                annotations.append({**annotation, "id": len(annotations) + 1, "image_id": new})
            found += [
                {**copy.deepcopy(record), "image_id": new}
                for record in records
                if record["image_id"] == image["id"]
            ]
    return make_coco(images, annotations), found


def reference(truth: COCO, records: list[dict]) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(records), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # all areas, 100 detections

    def mean(values: np.ndarray) -> float:
        return values[values > -1].mean()

    return np.array([mean(precision), *(mean(precision[i]) for i in (0, 5, 8, 9))])


@pytest.mark.parametrize("seed", range(8))
def test_equals_coco_on_repeated_images(seed: int) -> None:
    truth, records = make_world(seed)
    matched = MatchedDetections(truth, records)
    np.testing.assert_allclose(matched.metrics()[:5], reference(truth, records), rtol=1e-12)

    counts = np.random.default_rng(seed + 100).integers(0, 4, NUM_IMAGES)
    counts[0] = 2
    again = MatchedDetections(*repeated(truth, records, counts)).metrics()
    np.testing.assert_allclose(matched.metrics(counts.astype(float)), again, rtol=1e-12)
    expected = reference(*repeated(truth, records, counts))
    np.testing.assert_allclose(matched.metrics(counts.astype(float))[:5], expected, rtol=1e-12)


def test_mean_iou_of_true_positives() -> None:
    truth = make_coco(
        [dict(id=1, width=50, height=50)],
        [dict(id=1, image_id=1, category_id=3, bbox=[0, 0, 10, 10], area=100, iscrowd=0)],
    )
    records = coco_results(
        1, np.array([[0, 0, 10, 8], [30, 30, 40, 40]]), [0.9, 0.8], [0, 0], [3, 7]
    )
    metrics = dict(zip(METRICS, MatchedDetections(truth, records).metrics()))
    assert metrics["IoU_TP"] == pytest.approx(0.8)
    assert metrics["AP50"] == pytest.approx(1.0)
    assert metrics["AP90"] == 0.0


def test_no_detection_gives_zero() -> None:
    truth, _ = make_world(0)
    metrics = MatchedDetections(truth, []).metrics()
    assert metrics[:5].tolist() == [0, 0, 0, 0, 0]
    assert np.isnan(metrics[5])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(4))
def test_a_box_that_is_not_finite_matches_nothing(value, place):
    """To pycocotools NaN is no less than a threshold, so that such a box would match any object."""
    truth, records = make_world(0)
    broken = [float(10 + k) for k in range(4)]
    broken[place] = value
    images = sorted({each["image_id"] for each in records})
    more = [dict(image_id=i, category_id=3, bbox=broken, score=2.0) for i in images]
    empty = [{**each, "bbox": [90.0, 90.0, 0.0, 0.0]} for each in more]
    found, expected = (MatchedDetections(truth, records + some) for some in (more, empty))
    np.testing.assert_array_equal(found.metrics(), expected.metrics())
    assert found.metrics()[1] < MatchedDetections(truth, records).metrics()[1]
