"""Metrics look at annotations and classes when they are built, before anything is evaluated."""

from __future__ import annotations

import json

import pytest
from mmdet.registry import METRICS
from mmengine.evaluator import Evaluator

import ebm_mmdet  # noqa: F401  (registers the metrics)
from ebm_mmdet.datasets import AnnotationError

TYPES = ("HighIoUCocoMetric", "ProbabilisticBoxMetric")


def annotations(tmp_path, **changes) -> str:
    box = dict(id=1, image_id=1, category_id=1, bbox=[1, 2, 30, 40], area=1200, iscrowd=0)
    content = dict(
        images=[dict(id=1, file_name="1.png", height=100, width=100)],
        annotations=[box | changes],
        categories=[dict(id=1, name="cat"), dict(id=2, name="dog")],
    )
    (tmp_path / "val.json").write_text(json.dumps(content))
    return str(tmp_path / "val.json")


@pytest.mark.parametrize("kind", TYPES)
def test_a_misspelt_class_is_refused_when_the_evaluator_learns_of_the_data_set(kind, tmp_path):
    evaluator = Evaluator([dict(type=kind, ann_file=annotations(tmp_path), _scope_="mmdet")])
    evaluator.dataset_meta = dict(classes=("cat", "dog"))
    evaluator.dataset_meta = dict(classes=("dog",))  # part of them is fine
    evaluator.dataset_meta = dict(palette=[])
    message = r"1 of the 2 classes .*val\.json, the first of them is 'cta'; did you mean 'cat'\?"
    with pytest.raises(AnnotationError, match=message):
        evaluator.dataset_meta = dict(classes=("cta", "dog"))
    with pytest.raises(AnnotationError, match="names its class 'cat' twice"):
        evaluator.dataset_meta = dict(classes=("cat", "cat"))


@pytest.mark.parametrize("kind", TYPES)
def test_of_several_data_sets_one_has_to_fit(kind, tmp_path):
    metric = METRICS.build(dict(type=kind, ann_file=annotations(tmp_path)))
    metas = [dict(classes=("cat",)), dict(classes=("apple",))]
    metric.dataset_meta = metas
    assert metric.dataset_meta is metas
    with pytest.raises(AnnotationError, match="apple"):
        metric.dataset_meta = metas[1:] * 2
    assert metric.dataset_meta is metas


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(image_id="1"), r"val\.json: annotations\[0\] \(id 1\): 'image_id' is '1'"),
        (dict(bbox=None), "'bbox' is None"),
        (dict(category_id=None), "'category_id' is None"),
    ],
)
def test_annotations_are_checked_when_a_metric_is_built(kind, change, message, tmp_path):
    with pytest.raises(AnnotationError, match=message):
        METRICS.build(dict(type=kind, ann_file=annotations(tmp_path, **change)))


@pytest.mark.parametrize("kind", TYPES)
def test_what_can_be_filled_in_is(kind, tmp_path):
    path = annotations(tmp_path)
    content = json.loads((tmp_path / "val.json").read_text())
    for key in ("area", "iscrowd", "id"):
        del content["annotations"][0][key]
    del content["images"][0]["file_name"]  # a metric opens no image
    (tmp_path / "val.json").write_text(json.dumps(content))
    metric = METRICS.build(dict(type=kind, ann_file=path))
    api = metric._coco_api if kind == "HighIoUCocoMetric" else metric.ground_truth
    (entry,) = api.dataset["annotations"]
    assert (entry["id"], entry["area"], entry["iscrowd"]) == (1, 1200, 0)


def test_categories_are_sorted_as_mmdet_does(tmp_path):
    path = annotations(tmp_path)
    content = json.loads((tmp_path / "val.json").read_text())
    content["categories"].reverse()
    (tmp_path / "val.json").write_text(json.dumps(content))
    apis = []
    for kind in ("HighIoUCocoMetric", "CocoMetric"):
        metric = METRICS.build(dict(type=kind, ann_file=path, sort_categories=True))
        apis.append(metric._coco_api)
    assert apis[0].dataset == apis[1].dataset
    assert list(apis[0].cats) == list(apis[1].cats) == [1, 2]
    assert apis[0].get_cat_ids(cat_names=("cat", "dog")) == [1, 2]
