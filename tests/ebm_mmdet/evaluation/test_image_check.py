"""Metrics whose annotations are not those of the data set."""

import json
import math

import pytest
import torch
from mmdet.registry import METRICS
from mmengine.logging import MMLogger

import ebm_mmdet  # noqa: F401  (registers the metrics)
from ebm_mmdet.datasets import AnnotationError

BOX = [10.0, 10.0, 40.0, 30.0]
METRIC_NAMES = ("HighIoUCocoMetric", "ProbabilisticBoxMetric")


def annotations(folder, names=("a/x 1.jpg", "a/x 2.jpg", "a/x 3.jpg", "a/x 4.jpg"), name="gt"):
    images = [
        dict(id=i, width=99, height=99, file_name=each) for i, each in enumerate(names, start=1)
    ]
    objects = [
        dict(id=i, image_id=i, category_id=1, bbox=BOX, area=1200, iscrowd=0)
        for i in range(1, len(names) + 1)
    ]
    categories = [dict(id=1, name="cat")]
    path = folder / f"{name}.json"
    path.write_text(json.dumps(dict(images=images, annotations=objects, categories=categories)))
    return str(path)


def perfect(image_id, img_path=None):
    """A data sample whose detection is the object of every image."""
    x, y, w, h = BOX
    found = dict(
        bboxes=torch.tensor([[x, y, x + w, y + h]]),
        scores=torch.tensor([0.9]),
        labels=torch.tensor([0]),
        box_std=torch.full((1, 4), 0.1),
    )
    path = {} if img_path is None else dict(img_path=img_path)
    return dict(img_id=image_id, ori_shape=(99, 99), pred_instances=found, **path)


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(MMLogger, "warning", lambda logger, text, *_: lines.append(text))
    return lines


def evaluate(kind, path, samples):
    metric = METRICS.build(dict(type=kind, ann_file=path))
    metric.dataset_meta = dict(classes=("cat",))
    for sample in samples:
        metric.process({}, [sample])
    return metric.evaluate(len(samples))


PATHS = {
    "another image": ("data/val/y 7.jpg", True),
    "the image": ("data/val/a/x 1.jpg", False),
    "another folder and ending": ("elsewhere/x 1.png", False),
    "a prefix of COCO's editions": ("val/COCO_val2014_x 1.jpg", False),
    "a generated one": ("shapes://0/7", False),
    "not known": (None, False),
}


@pytest.mark.parametrize("kind", METRIC_NAMES)
@pytest.mark.parametrize(("path", "warns"), PATHS.values(), ids=PATHS)
def test_an_image_of_another_file_is_reported_once(tmp_path, said, kind, path, warns):
    source = annotations(tmp_path, ["a/x 1.jpg"] * 4)
    evaluate(kind, source, [perfect(i, path) for i in range(1, 5)])
    assert len(said) == warns
    if warns:
        assert f"{path} in the data set, and a/x 1.jpg in {source}" in said[0]
        assert "test_evaluator and test_dataloader" in said[0]


@pytest.mark.parametrize("kind", METRIC_NAMES)
def test_an_image_that_is_not_there_stops_at_once(tmp_path, kind):
    """And not after all images, or never: its detections would match nothing."""
    with pytest.raises(AnnotationError, match=r"id 9 \(b.jpg\) is not in .*gt\.json"):
        evaluate(kind, annotations(tmp_path), [perfect(9, "b.jpg")])


@pytest.mark.parametrize("predicted", [1, 2, 4])
def test_a_part_of_the_images_is_reported(tmp_path, said, predicted):
    """As of ``test_dataloader.dataset.indices=100``: the objects of the others count as missed."""
    values = evaluate(
        "HighIoUCocoMetric", annotations(tmp_path), [perfect(i + 1) for i in range(predicted)]
    )
    assert math.isclose(values["coco/bbox_mAP"], predicted / 4, abs_tol=0.02)
    assert len(said) == (predicted < 4)
    if said:
        assert f"{4 - predicted} of the 4 images of the annotations were not predicted" in said[0]
        assert f"their {4 - predicted} objects count as missed" in said[0]
