"""Annotation files: values that are filled in, errors and their messages, and all readers."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmdet.evaluation.metrics import coco_metric
from pycocotools.coco import COCO

from ebm_mmdet.datasets import AnnotationError, CheckedCOCO, use_checked_annotations
from ebm_mmdet.datasets.annotation_check import complete_annotations
from ebm_mmdet.datasets.coco_check import class_order

CLASSES = ("cat", "dog")


def content() -> dict:
    """Two images with two objects each."""
    images = [dict(id=i, file_name=f"{i}.png", height=20, width=30) for i in (1, 2)]
    annotations = [
        dict(
            id=10 * image + k,
            image_id=image,
            category_id=3 + k,
            bbox=[1, 2, 5, 4],
            area=18.5,
            iscrowd=0,
        )
        for image in (1, 2)
        for k in (0, 1)
    ]
    categories = [dict(id=3 + k, name=name) for k, name in enumerate(CLASSES)]
    return dict(images=images, annotations=annotations, categories=categories)


@pytest.fixture
def checked(monkeypatch):
    """mmdet reads as it does in our tools, for one test."""
    monkeypatch.setattr(CocoDataset, "COCOAPI", CocoDataset.COCOAPI)
    monkeypatch.setattr(coco_metric, "COCO", coco_metric.COCO)
    use_checked_annotations()


def write(path, value) -> str:
    path.write_text(json.dumps(value))
    return str(path)


def dataset(path, classes=CLASSES) -> CocoDataset:
    return CocoDataset(
        ann_file=path, metainfo=dict(classes=classes), data_prefix=dict(img=""), pipeline=[]
    )


def test_a_good_file_is_read_as_pycocotools_does(tmp_path, messages):
    path = write(tmp_path / "a b.json", content())
    ours, theirs = CheckedCOCO(path), COCO(path)
    assert ours.dataset == theirs.dataset
    assert ours.anns == theirs.anns
    assert ours.imgToAnns == theirs.imgToAnns
    assert ours.get_cat_ids(cat_names=CLASSES) == [3, 4]
    assert not messages()


def drop(key):
    def change(entry):
        del entry[key]

    return change


def put(key, value):
    def change(entry):
        entry[key] = value

    return change


REFUSED = [
    ("images", put("id", "1"), r"images\[1\] \(file_name '2.png'\): 'id' is '1'; .*an integer"),
    ("images", drop("id"), r"images\[1\] .*there is no 'id'.* 1 of 2 images"),
    ("images", put("id", 1), r"2 of the images have the id 1"),
    ("images", drop("file_name"), r"images\[1\] \(id 2\): there is no 'file_name'"),
    ("images", drop("height"), r"images\[1\] .*there is no 'height'; expected the size"),
    ("images", put("width", 0), r"'width' is 0"),
    ("images", put("width", "30"), r"'width' is '30'"),
    ("categories", put("id", "4"), r"categories\[1\] \(name 'dog'\): 'id' is '4'"),
    ("categories", put("id", 3), r"2 of the categories have the id 3"),
    ("categories", put("name", "cat"), r"2 of the categories have the name 'cat'"),
    ("categories", drop("name"), r"categories\[1\] \(id 4\): there is no 'name'"),
    ("annotations", put("image_id", "2"), r"annotations\[3\] \(id 21\): 'image_id' is '2'"),
    ("annotations", put("category_id", "dog"), r"'category_id' is 'dog'"),
    ("annotations", drop("category_id"), r"there is no 'category_id'"),
    ("annotations", drop("bbox"), r"there is no 'bbox'; expected \[x, y, width, height\]"),
    ("annotations", put("bbox", [1, 2, 3]), r"'bbox' is \[1, 2, 3\]"),
    ("annotations", put("bbox", [1, 2, 3, float("nan")]), r"'bbox' is .*nan"),
    ("annotations", put("iscrowd", "0"), r"'iscrowd' is '0'; expected 0 or 1"),
    ("annotations", put("area", "12"), r"'area' is '12'"),
]


@pytest.mark.parametrize(("part", "change", "message"), REFUSED)
def test_what_is_refused_is_named_with_file_entry_and_key(part, change, message, tmp_path, checked):
    value = content()
    change(value[part][-1])
    path = write(tmp_path / "train.json", value)
    with pytest.raises(AnnotationError, match=rf"train\.json: .*{message}"):
        dataset(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "holds a list"),
        ("{}", "has no 'images'"),
        ('{"images": 1}', "something else as 'images'"),
        ('{"images": [], "categories": {}}', "something else as 'categories'"),
        ('{"images": [1], "categories": []}', "expected a list of objects"),
    ],
)
def test_what_is_no_annotation_file_is_named(text, message, tmp_path, checked):
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(AnnotationError, match=rf"train\.json.*{message}"):
        dataset(str(tmp_path / "train.json"))


def test_defaults_are_filled_in_and_said(tmp_path, checked, messages):
    value = content()
    for entry in value["annotations"]:
        del entry["iscrowd"], entry["area"], entry["id"]
    path = write(tmp_path / "train.json", value)
    data = dataset(path)
    assert [len(data.get_data_info(i)["instances"]) for i in (0, 1)] == [2, 2]
    text = "\n".join(messages())
    assert text.count("train.json") == 3
    for key in ("'iscrowd'", "'area'", "'id'"):
        assert key in text
    api = CheckedCOCO(path)
    assert [entry["id"] for entry in api.dataset["annotations"]] == [1, 2, 3, 4]
    assert {entry["area"] for entry in api.dataset["annotations"]} == {20}
    assert json.loads((tmp_path / "train.json").read_text()) == value  # the file stays


@pytest.mark.parametrize("ids", [["a", "b", "c", "d"], [1, 1, 2, 3], [None, 1, 2, 3]])
def test_annotation_ids_that_tell_nothing_apart_are_numbered(ids, tmp_path, checked):
    value = content()
    for entry, number in zip(value["annotations"], ids):
        entry["id"] = number
    data = dataset(write(tmp_path / "train.json", value))
    assert [len(data.get_data_info(i)["instances"]) for i in (0, 1)] == [2, 2]


def test_area_0_everywhere_trains_all_the_same(tmp_path, checked, messages):
    value = content()
    for entry in value["annotations"]:
        entry["area"] = 0
    path = write(tmp_path / "train.json", value)
    assert sum(len(info["instances"]) for info in (dataset(path).get_data_info(i) for i in (0, 1)))
    assert "'area' is 0 in all 4 annotations" in messages()[0]


def test_area_0_in_some_is_left_alone_and_said(tmp_path, checked, messages):
    value = content()
    value["annotations"][0]["area"] = 0
    path = write(tmp_path / "train.json", value)
    assert [len(dataset(path).get_data_info(i)["instances"]) for i in (0, 1)] == [1, 2]
    assert "1 of 4 annotations are left out: 1 are without an area" in messages()[0]


@pytest.mark.parametrize(
    ("key", "wrong", "message"),
    [
        ("bbox", [0.1, 0.1, 0.5, 0.4], "less than a pixel wide"),
        ("bbox", [30, 2, 5, 4], "outside of their image"),
        ("bbox", [2, -4, 5, 4], "outside of their image"),
        ("image_id", 99, "of an image that is not in the file"),
        ("category_id", 99, "of a category that is not in the file"),
    ],
)
def test_a_file_that_would_train_on_nothing_is_refused(key, wrong, message, tmp_path, checked):
    value = content()
    for entry in value["annotations"][1:]:
        entry[key] = wrong
    assert len(complete_annotations(copy.deepcopy(value), "x")) == 1  # one is left
    value["annotations"][0][key] = wrong
    with pytest.raises(AnnotationError, match=rf"none of the 4 annotations .*{message}"):
        dataset(write(tmp_path / "train.json", value))


def test_a_file_of_crowds_alone_is_pointed_out(tmp_path, checked, messages):
    value = content()
    for entry in value["annotations"][1:]:
        entry["iscrowd"] = 1
    assert complete_annotations(copy.deepcopy(value), "x") == []
    value["annotations"][0]["ignore"] = True
    dataset(write(tmp_path / "train.json", value))
    assert any("all 4 annotations are crowds or to be ignored" in line for line in messages())


def test_a_test_set_without_annotations_is_fine(tmp_path, checked):
    value = content()
    del value["annotations"]
    assert len(dataset(write(tmp_path / "test.json", value))) == 2
    value["annotations"] = []
    assert len(dataset(write(tmp_path / "test.json", value))) == 2


def test_a_misspelt_class_is_refused_when_the_data_set_is_built(tmp_path, checked):
    path = write(tmp_path / "train.json", content())
    with pytest.raises(AnnotationError, match=r"'dgo'; did you mean 'dog'\?.*train\.json|'dgo'"):
        dataset(path, ("cat", "dgo"))
    with pytest.raises(AnnotationError, match="78 of the 80 classes"):
        CocoDataset(ann_file=path, data_prefix=dict(img=""), pipeline=[])  # with COCO's own classes


def test_labels_are_numbered_in_the_order_of_the_file_and_another_one_is_said(
    tmp_path, checked, messages
):
    path = write(tmp_path / "train.json", content())
    assert class_order(dataset(path)) == CLASSES
    assert not messages()
    data = dataset(path, CLASSES[::-1])
    assert data.cat2label == {3: 0, 4: 1}  # mmdet's numbers, whatever the classes are
    assert class_order(copy.deepcopy(data)) == CLASSES
    assert class_order(object()) is None
    (line,) = messages()
    assert "train.json has the categories cat, dog, and the data set's classes are dog, cat" in line
    assert "label 0 is 'cat', not 'dog'" in line
    more = content()
    more["categories"].insert(1, dict(id=9, name="cow"))  # of which nothing is wanted
    assert class_order(dataset(write(tmp_path / "more.json", more))) == CLASSES
    assert len(messages()) == 1
    assert dataset(path, "dog").cat_ids == [4]  # a single name, of which mmengine says something


def test_mmdets_own_metric_is_told_as_well(tmp_path, checked):
    value = content()
    for entry in value["annotations"]:
        del entry["iscrowd"], entry["area"]
    metric = CocoMetric(ann_file=write(tmp_path / "val.json", value))
    metric.dataset_meta = dict(classes=CLASSES)
    found = dict(
        img_id=1,
        bboxes=np.array([[1.0, 2, 6, 6]]),
        scores=np.array([0.9]),
        labels=np.array([0]),
    )
    values = metric.compute_metrics([({}, found), ({}, {**found, "img_id": 2})])
    assert values["bbox_mAP"] > 0


def test_mmdet_is_left_alone_without_being_asked():
    """In a process of its own, because commands that other tests have run in this one do ask."""
    code = (
        "from mmdet.datasets import CocoDataset\n"
        "from mmdet.evaluation.metrics import coco_metric\n"
        "from ebm_mmdet.datasets import CheckedCOCO\n"
        "assert CocoDataset.COCOAPI is not CheckedCOCO\n"
        "assert coco_metric.COCO is not CheckedCOCO\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
