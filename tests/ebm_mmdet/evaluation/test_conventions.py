"""Average precision against the better of several right boxes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ebm_mmdet.box_iou import box_iou
from ebm_mmdet.datasets import AnnotationError, CheckedCOCO
from ebm_mmdet.evaluation import HighIoUCocoMetric
from ebm_mmdet.evaluation.average_precision import METRICS, MatchedDetections
from ebm_mmdet.evaluation.conventions import boxes_of

BODY, WHOLE, OTHER = [10.0, 10, 20, 20], [10.0, 10, 40, 20], [100.0, 100, 30, 30]


def annotation(number, boxes, chosen=0, category=1, image=0):
    x, y, w, h = boxes[chosen]
    extra = {"conventions": boxes} if len(boxes) > 1 else {}
    return dict(
        id=number,
        image_id=image,
        category_id=category,
        bbox=[x, y, w, h],
        area=w * h,
        iscrowd=0,
        **extra,
    )


def write(path, annotations, images=1):
    content = dict(
        images=[dict(id=i, file_name=f"{i}.png", width=200, height=200) for i in range(images)],
        categories=[dict(id=1, name="a"), dict(id=2, name="b")],
        annotations=annotations,
    )
    path.write_text(json.dumps(content))
    return str(path)


def prediction(boxes, scores, labels, image=0):
    corners = torch.tensor(boxes).reshape(-1, 4).clone()
    corners[:, 2:] += corners[:, :2]
    found = dict(bboxes=corners, scores=torch.tensor(scores), labels=torch.tensor(labels).long())
    return dict(img_id=image, ori_shape=(200, 200), pred_instances=found)


def evaluate(file, predictions, **options):
    metric = HighIoUCocoMetric(file, metric="bbox", **options)
    metric.dataset_meta = dict(classes=("a", "b"))
    metric.process({}, predictions)
    return metric.evaluate(len(predictions))


def test_either_box_is_right_and_the_middle_is_not(tmp_path):
    file = write(tmp_path / "val.json", [annotation(1, [BODY, WHOLE])])
    for box, expected in ((BODY, 1.0), (WHOLE, 1.0), ([10.0, 10, 28, 20], 0.0)):
        values = evaluate(file, [prediction([box], [0.9], [0])], conventions=True)
        assert values["coco/bbox_mAP_75"] == pytest.approx(expected)
    plain = evaluate(file, [prediction([WHOLE], [0.9], [0])])
    assert plain["coco/bbox_mAP_75"] == 0
    best = evaluate(file, [prediction([[10.0, 10, 28, 20]], [0.9], [0])], conventions=True)
    assert best["coco/bbox_mIoU_TP"] == pytest.approx(20 / 28)


def test_an_object_counts_once(tmp_path):
    """Two detections, one for each convention: the second is a false positive."""
    file = write(tmp_path / "val.json", [annotation(1, [BODY, WHOLE]), annotation(2, [OTHER])])
    found = prediction([BODY, WHOLE, OTHER], [0.9, 0.8, 0.7], [0, 0, 0])
    values = evaluate(file, [found], conventions=True)
    # Precision 1 up to a recall of 1/2 (levels 0 to 0.50), then 2/3.
    assert values["coco/bbox_mAP_75"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def random_case(seed):
    rng = np.random.default_rng(seed)
    annotations, predictions = [], []
    for image in range(4):
        boxes, scores, labels = [], [], []
        for _ in range(int(rng.integers(1, 5))):
            xy, size = rng.uniform(0, 120, 2), rng.uniform(10, 60, 2)
            truth = [*xy, *size]
            category = int(rng.integers(1, 3))
            number = len(annotations) + 1
            annotations.append(annotation(number, [truth], 0, category, image))
            for _ in range(int(rng.integers(0, 3))):
                boxes.append(list(np.array(truth) + rng.normal(0, 2, 4)))
                scores.append(float(rng.random()))
                labels.append(category - 1)
        predictions.append(prediction(boxes, scores, labels, image))
    return annotations, predictions


@pytest.mark.parametrize("several", [False, True])
def test_one_convention_is_exactly_coco(tmp_path, several):
    """Also where the key is there, with the annotated box alone."""
    annotations, predictions = random_case(3)
    if several:
        for each in annotations:
            each["conventions"] = [each["bbox"]]
    file = write(tmp_path / "val.json", annotations, images=4)
    assert evaluate(file, predictions, conventions=True) == evaluate(file, predictions)


def test_the_studies_and_the_metric_agree(tmp_path):
    annotations, predictions = random_case(5)
    for each in annotations[::2]:
        x, y, w, h = each["bbox"]
        each["conventions"] = [[x, y, w, h], [x, y, w * 1.8, h]]
    file = write(tmp_path / "val.json", annotations, images=4)
    records = []
    for each in predictions:
        found = each["pred_instances"]
        for box, score, label in zip(found["bboxes"], found["scores"], found["labels"]):
            x1, y1, x2, y2 = box.tolist()
            records.append(
                dict(
                    image_id=each["img_id"],
                    category_id=int(label) + 1,
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    score=float(score),
                )
            )
    values = evaluate(file, predictions, conventions=True)
    matched = MatchedDetections(CheckedCOCO(file), records, conventions=True)
    metrics = dict(zip(METRICS, matched.metrics()))
    assert metrics["AP"] == pytest.approx(values["coco/bbox_mAP"])
    assert metrics["AP75"] == pytest.approx(values["coco/bbox_mAP_75"])
    assert metrics["IoU_TP"] == pytest.approx(values["coco/bbox_mIoU_TP"])
    assert metrics["AP"] > MatchedDetections(CheckedCOCO(file), records).metrics()[0] - 1e-12


def test_the_overlap_is_the_largest_of_all_boxes():
    each = annotation(1, [BODY, WHOLE, OTHER], 1)
    assert boxes_of(each).tolist()[0] == [10, 10, 50, 30]
    assert box_iou(np.array([100.0, 100, 130, 130]), boxes_of(each)).max() == 1


@pytest.mark.parametrize(
    ("conventions", "match"),
    [
        ([], "annotation 1 are \\[\\]"),
        ("both", "annotation 1 are 'both'"),
        ([[0, 0, 1]], "annotation 1"),
        ([[0, 0, 1, float("nan")]], "annotation 1"),
        ([[0, 0, 5, 5], [1, 1, 5, 5]], "without its bbox"),
    ],
)
def test_conventions_that_cannot_be_meant_are_refused(tmp_path, conventions, match):
    broken = {**annotation(1, [BODY]), "conventions": conventions}
    file = write(tmp_path / "val.json", [broken])
    with pytest.raises(AnnotationError, match=match):
        HighIoUCocoMetric(file, metric="bbox", conventions=True)
    HighIoUCocoMetric(file, metric="bbox")  # not read


def test_conventions_need_the_annotations():
    with pytest.raises(ValueError, match="ann_file"):
        HighIoUCocoMetric(metric="bbox", conventions=True)
