"""HighIoUCocoMetric against hand-made cases and against pycocotools called directly."""

import json
import math

import numpy as np
import pytest
import torch
from mmdet.registry import METRICS
from mmengine.logging import MMLogger
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import ebm_mmdet  # noqa: F401  (registers the metric)

CLASSES = ("cat", "dog")
THRESHOLDS = {50: 0.5, 60: 0.6, 70: 0.7, 75: 0.75, 80: 0.8, 90: 0.9}


def ground_truth(boxes_per_image, first_id=1):
    """COCO dictionary; boxes as (x, y, w, h, category id[, iscrowd])."""
    annotations = []
    for image_id, boxes in enumerate(boxes_per_image, start=1):
        for x, y, w, h, category, *crowd in boxes:
            annotations.append(
                dict(
                    id=first_id + len(annotations),
                    image_id=image_id,
                    category_id=category,
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=int(bool(crowd and crowd[0])),
                )
            )
    images = [
        dict(id=i + 1, width=640, height=480, file_name=f"{i}.jpg")
        for i in range(len(boxes_per_image))
    ]
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    return dict(images=images, annotations=annotations, categories=categories)


def prediction(image_id, boxes):
    """A data sample; boxes as (x, y, w, h, category id, score)."""
    array = np.array(boxes, dtype=np.float64).reshape(-1, 6)
    corners = np.concatenate([array[:, :2], array[:, :2] + array[:, 2:4]], axis=1)
    return dict(
        img_id=image_id,
        ori_shape=(480, 640),
        pred_instances=dict(
            bboxes=torch.from_numpy(corners),
            scores=torch.from_numpy(array[:, 5]),
            labels=torch.from_numpy(array[:, 4]).long() - 1,
        ),
    )


def evaluate(tmp_path, coco, predictions, **options):
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(coco))
    metric = METRICS.build(dict(type="HighIoUCocoMetric", ann_file=str(path), **options))
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, predictions)
    values = metric.evaluate(size=len(predictions))
    return {key.removeprefix("coco/"): value for key, value in values.items()}


def random_case(seed, images=12):
    """Objects of two classes, noisy detections of most of them, and false positives."""
    rng = np.random.default_rng(seed)
    objects, predictions = [], []
    for image_id in range(1, images + 1):
        boxes = np.column_stack(
            [rng.uniform(0, 400, (5, 2)), rng.uniform(15, 150, (5, 2)), rng.integers(1, 3, 5)]
        )
        objects.append([tuple(box) for box in boxes])
        noise = rng.normal(0, 0.04, (5, 4))
        detected = boxes.copy()
        detected[:, :2] += noise[:, :2] * boxes[:, 2:4]
        detected[:, 2:4] *= np.exp(noise[:, 2:])
        detected = np.column_stack([detected, rng.uniform(0.3, 1, 5)])[rng.random(5) < 0.9]
        wrong = np.column_stack(
            [
                rng.uniform(0, 400, (2, 2)),
                rng.uniform(15, 150, (2, 2)),
                rng.integers(1, 3, 2),
                rng.uniform(0, 0.8, 2),
            ]
        )
        predictions.append(prediction(image_id, np.vstack([detected, wrong])))
    return ground_truth(objects), predictions


def pycocotools_ap(coco_dict, predictions, thresholds):
    """AP and the mean over matched pairs of the IoU, straight from pycocotools."""
    truth = COCO()
    truth.dataset = coco_dict
    truth.createIndex()
    rows = []
    for sample in predictions:
        found = sample["pred_instances"]
        for box, score, label in zip(found["bboxes"], found["scores"], found["labels"]):
            x1, y1, x2, y2 = box.tolist()
            rows.append(
                dict(
                    image_id=sample["img_id"],
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    score=float(score),
                    category_id=int(label) + 1,
                )
            )
    evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
    evaluation.params.iouThrs = np.array(thresholds)
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    # IoU of the matches from pycocotools' own IoU matrices.
    ious = []
    for image_id in evaluation.params.imgIds:
        for category in evaluation.params.catIds:
            matrix = evaluation.ious[image_id, category]
            record = evaluation.evaluateImg(image_id, category, [0, 1e10], 100)
            if record is None:
                continue
            columns = [gt["id"] for gt in evaluation._gts[image_id, category]]
            for row, match in enumerate(record["dtMatches"][0]):
                if match:
                    ious.append(matrix[row][columns.index(match)])
    return precision[precision > -1].mean(), np.mean(ious)


def test_one_shifted_box(tmp_path):
    # 100 wide, shifted by 10: IoU = 90 / 110.
    values = evaluate(
        tmp_path,
        ground_truth([[(50, 50, 100, 100, 1)]]),
        [prediction(1, [(60, 50, 100, 100, 1, 0.9)])],
    )
    assert values["bbox_mIoU_TP"] == pytest.approx(90 / 110, abs=1e-12)
    assert [values[f"bbox_mAP_{t}"] for t in (50, 60, 70, 75, 80)] == pytest.approx([1.0] * 5)
    assert values["bbox_mAP_90"] == 0
    assert values["bbox_mAP"] == pytest.approx(0.7)  # thresholds 0.5 to 0.8 of 0.5 to 0.95
    assert values["bbox_mAP_s"] == -1  # no small object


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pycocotools(tmp_path, seed):
    coco, predictions = random_case(seed)
    values = evaluate(tmp_path, coco, predictions)
    for name, threshold in THRESHOLDS.items():
        expected, _ = pycocotools_ap(coco, predictions, [threshold])
        assert values[f"bbox_mAP_{name}"] == pytest.approx(expected, abs=1e-12)
        assert 0 < expected < 1  # otherwise this compares nothing
    expected, mean_iou = pycocotools_ap(coco, predictions, np.linspace(0.5, 0.95, 10))
    assert values["bbox_mAP"] == pytest.approx(expected, abs=1e-12)
    assert values["bbox_mIoU_TP"] == pytest.approx(mean_iou, abs=1e-12)


def test_same_as_mmdet_up_to_its_rounding(tmp_path):
    coco, predictions = random_case(7)
    ours = evaluate(tmp_path, coco, predictions, classwise=True)
    metric = METRICS.build(
        dict(type="CocoMetric", ann_file=str(tmp_path / "gt.json"), classwise=True)
    )
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, predictions)
    theirs = metric.evaluate(size=len(predictions))
    assert theirs
    for key, value in theirs.items():
        assert ours[key.removeprefix("coco/")] == pytest.approx(value, abs=5.1e-4)


def test_small_differences_are_not_rounded_away(tmp_path):
    coco, predictions = random_case(3)
    before = evaluate(tmp_path, coco, predictions)["bbox_mIoU_TP"]
    predictions[0]["pred_instances"]["bboxes"][0, 2] += 1e-4
    after = evaluate(tmp_path, coco, predictions)["bbox_mIoU_TP"]
    assert 0 < abs(after - before) < 1e-6


def test_no_detection_is_zero_not_an_error(tmp_path):
    values = evaluate(
        tmp_path, ground_truth([[(5, 5, 50, 50, 1)], []]), [prediction(1, []), prediction(2, [])]
    )
    assert values["bbox_mAP"] == values["bbox_mAP_90"] == 0
    assert math.isnan(values["bbox_mIoU_TP"])


def test_no_object_is_minus_one(tmp_path):
    values = evaluate(tmp_path, ground_truth([[]]), [prediction(1, [(5, 5, 50, 50, 1, 0.9)])])
    assert values["bbox_mAP"] == values["bbox_mAP_60"] == -1
    assert math.isnan(values["bbox_mIoU_TP"])


def test_crowds_do_not_count_as_true_positives(tmp_path):
    crowd, single = (0, 0, 200, 200, 1, True), (300, 300, 100, 100, 1)
    inside = (0, 0, 180, 200, 1, 0.9)
    exact = (300, 300, 100, 100, 1, 0.8)
    values = evaluate(tmp_path, ground_truth([[crowd, single]]), [prediction(1, [inside, exact])])
    assert values["bbox_mIoU_TP"] == pytest.approx(1)
    assert values["bbox_mAP_90"] == pytest.approx(1)


def test_annotation_id_zero_is_pointed_out(tmp_path, caplog):
    box = (50, 50, 100, 100, 1)
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        evaluate(tmp_path, ground_truth([[box]], first_id=0), [prediction(1, [(*box, 0.9)])])
    finally:
        logger.removeHandler(caplog.handler)
    assert "Number annotations from 1" in caplog.text


def test_metric_items_select_and_are_checked(tmp_path):
    coco, predictions = random_case(1)
    values = evaluate(tmp_path, coco, predictions, metric_items=["mAP_90", "mIoU_TP"])
    assert set(values) == {"bbox_mAP_90", "bbox_mIoU_TP"}
    with pytest.raises(KeyError, match="mAP_91"):
        METRICS.build(dict(type="HighIoUCocoMetric", metric_items=["mAP_91"]))


def test_other_metrics_go_to_mmdet(tmp_path):
    coco, predictions = random_case(2)
    values = evaluate(tmp_path, coco, predictions, metric=["bbox", "proposal"])
    assert {"bbox_mAP_90", "AR@100"} <= set(values)


def test_more_than_100_boxes_of_an_image(tmp_path):
    boxes = [(40 * (i % 15), 40 * (i // 15), 30, 30, 1) for i in range(150)]
    coco = ground_truth([boxes])
    found = [prediction(1, [(*box, 0.9 - i / 1000) for i, box in enumerate(boxes)])]
    usual = evaluate(tmp_path, coco, found)
    assert usual["bbox_mAP"] == pytest.approx(2 / 3, abs=0.01)
    more = evaluate(tmp_path, coco, found, max_dets=300)
    assert [more[f"bbox_{item}"] for item in ("mAP", "mAP_50", "mAP_75", "mAP_90")] == [1] * 4
    fewer = evaluate(tmp_path, coco, found, max_dets=120)
    assert fewer["bbox_mAP"] == pytest.approx(0.8, abs=0.01)
    with pytest.raises(ValueError, match="max_dets=30; give 100 or more"):
        evaluate(tmp_path, coco, found, max_dets=30)


@pytest.mark.parametrize(("objects", "max_dets", "warned"), [(101, None, 1), (100, None, 0)])
@pytest.mark.parametrize("crowds", [0, 5])
def test_more_objects_than_detections_count(tmp_path, caplog, objects, max_dets, warned, crowds):
    boxes = [(i, 0, 20, 20, 1) for i in range(objects)] + [(0, 0, 9, 9, 1, True)] * crowds
    found = evaluated_lines(tmp_path, caplog, ground_truth([boxes, [(0, 0, 9, 9, 1)]]), max_dets)
    assert len(found) == warned
    if warned:
        assert "1 of 2 images have more than 100 objects of a class (up to 101)" in found[0]


@pytest.mark.parametrize(("max_dets", "warned"), [(None, 1), (120, 1), (150, 0)])
def test_the_warning_is_about_the_detections_that_count(tmp_path, caplog, max_dets, warned):
    """Of one class: 130 objects of each of two classes in an image are found by 150 of each."""
    boxes = [(i, 0, 20, 20, 1 + i % 2) for i in range(260)]
    found = evaluated_lines(tmp_path, caplog, ground_truth([boxes]), max_dets)
    assert len(found) == warned


@pytest.mark.parametrize(
    ("options", "told"), [({}, True), (dict(proposal_nums=[1, 10, 100]), False)]
)
def test_values_with_different_limits_are_told_apart(tmp_path, caplog, options, told):
    """By default 100 detections count in mAP, and 1000 in the others."""
    boxes = [(40 * (i % 15), 40 * (i // 15), 30, 30, 1) for i in range(150)]
    found = [[(*box, 0.9 - i / 1000) for i, box in enumerate(boxes)]]
    (line,), values = warnings_of(tmp_path, caplog, ground_truth([boxes]), found, **options)
    assert ("at most 100 in mAP and 1000 in the other values" in line) == told
    assert ("only 100 detections of an image and class count" in line) != told
    assert values["bbox_mAP"] == pytest.approx(2 / 3, abs=0.01)
    others = [value for key, value in values.items() if key[-3:] in ("_50", "_75", "_90")]
    assert others == pytest.approx([1 if told else 2 / 3] * 3, abs=0.01)


@pytest.mark.parametrize(("kept", "warned"), [(150, 0), (100, 1), (97, 0), (3, 0), (0, 0)])
def test_a_detector_that_keeps_fewer_boxes_than_objects(tmp_path, caplog, kept, warned):
    boxes = [(40 * (i % 15), 40 * (i // 15), 30, 30, 1 + i % 2) for i in range(150)]
    found = [[(*box, 0.9 - i / 1000) for i, box in enumerate(boxes[:kept])]]
    lines, _ = warnings_of(tmp_path, caplog, ground_truth([boxes]), found, max_dets=300)
    assert len(lines) == warned
    if warned:
        assert "exactly 100 detections" in lines[0]
        assert "max_per_img=150" in lines[0]


def warnings_of(tmp_path, caplog, coco, found, **options):
    """The warnings of an evaluation, and its values."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        predictions = [prediction(image, boxes) for image, boxes in enumerate(found, 1)]
        values = evaluate(tmp_path, coco, predictions, **options)
    finally:
        logger.removeHandler(caplog.handler)
    return [each.getMessage() for each in caplog.records if each.levelname == "WARNING"], values


def evaluated_lines(tmp_path, caplog, coco, max_dets):
    """What an evaluation of one detection says about too many objects."""
    found = [[(0, 0, 20, 20, 1, 0.9)] for _ in coco["images"]]
    lines, _ = warnings_of(tmp_path, caplog, coco, found, max_dets=max_dets)
    return [line for line in lines if "objects of a class" in line]
