"""What detector and data mean by a label: names of checkpoints, and orders of annotation files."""

from __future__ import annotations

import json

import pytest
from mmengine.config import Config

from ebm_mmdet.apis.fitting.classes import (
    check_class_order,
    check_classes,
    classes_of_checkpoint,
    training_file_orders,
)
from ebm_mmdet.datasets import AnnotationError, use_checked_annotations

ABC = ("ape", "bat", "cat")


@pytest.mark.parametrize(
    "content",
    [
        dict(meta=dict(dataset_meta=dict(classes=ABC))),
        dict(meta=dict(dataset_meta=dict(CLASSES=list(ABC)))),
        dict(meta=dict(CLASSES=ABC)),
    ],
)
def test_checkpoints_of_all_versions_tell_their_classes(content):
    assert classes_of_checkpoint(content) == ABC


@pytest.mark.parametrize(
    "content", [{}, dict(meta=None), dict(meta={}), dict(meta=dict(dataset_meta=dict(classes=())))]
)
def test_a_checkpoint_without_classes(content):
    assert classes_of_checkpoint(content) is None
    assert classes_of_checkpoint(dict(meta=dict(dataset_meta=dict(classes="cell")))) == ("cell",)


def config(**loaders):
    """Data sets with these entries; types without names are COCO's."""
    sets = {f"{name}_dataloader": dict(dataset=one) for name, one in loaders.items()}
    return Config({name: one for name, one in sets.items()})


def coco(classes=None, **more):
    given = {} if classes is None else dict(metainfo=dict(classes=classes))
    return dict(type="CocoDataset", **given, **more)


@pytest.mark.parametrize(
    ("cfg", "number", "known"),
    [
        (config(train=coco(ABC), val=coco(ABC)), 3, ABC),
        (config(train=coco(ABC), val=coco(ABC)), 3, None),
        (config(train=coco("cell")), 1, ("cell",)),
        (config(train=coco()), 80, None),  # COCO's own
        (config(train=coco(ABC), val=coco(ABC), test=coco()), 3, ABC),  # not what is judged on
        (config(train=dict(type="CocoPanopticDataset")), 80, None),
        (config(train=coco(__file__)), 3, ABC),  # names in a file
        (config(train=dict(type="OfAnotherPackage", metainfo=dict(classes=ABC))), 1, None),
    ],
)
def test_classes_that_fit(cfg, number, known):
    assert check_classes(cfg, number, known, "a.pth") == []


@pytest.mark.parametrize(
    ("cfg", "number", "known", "where"),
    [
        (config(train=coco(("cell",))), 3, ABC, "train_dataloader has 1, cell"),
        (config(train=coco(("cell",))), 3, None, "train_dataloader has 1, cell"),
        (config(train=coco(ABC), val=coco(ABC[:2])), 3, ABC, "val_dataloader has 2, ape, bat"),
        (config(train=coco(ABC), test=coco(ABC[:2])), 3, ABC, "test_dataloader has 2, ape, bat"),
        (config(train=coco()), 3, ABC, "train_dataloader has 80, person"),
        (
            config(train=dict(type="RepeatDataset", dataset=coco(("cell",)))),
            3,
            ABC,
            "train_dataloader has 1",
        ),
    ],
)
def test_another_number_of_classes_is_refused(cfg, number, known, where):
    with pytest.raises(ValueError, match=rf"a\.pth has 3 classes.*data of {where}.*metainfo=dict"):
        check_classes(cfg, number, known, "a.pth")


def test_as_many_classes_of_other_names_are_a_sentence():
    cfg = config(train=coco(("nucleus",)), val=coco(("nucleus",)))
    (line,) = check_classes(cfg, 1, ("nuclei",), "a.pth")
    assert "label 0 of the one, 'nuclei', counts as that of the other, 'nucleus'" in line


def test_orders_of_files():
    cab, bac = ("cat", "ape", "bat"), ("bat", "ape", "cat")
    assert check_class_order([], ABC) == []
    assert check_class_order([("a.json", ABC), ("b.json", ABC)], ABC) == []
    assert check_class_order([("a.json", ABC), ("b.json", ABC[:2])], ABC) == []  # labels agree
    (line,) = check_class_order([("a.json", cab), ("b.json", cab)], ABC)
    assert "label 0 is 'cat' in a.json (cat, ape, bat), and 'ape' in" in line
    # The data's own classes count where the detector's have other names, or are not known.
    for known in (None, ("ApE", "BaT", "CaT")):
        assert check_class_order([("a.json", cab)], known, ABC) == [
            *check_class_order([("a.json", cab)], ABC)
        ]
        assert check_class_order([("a.json", ABC)], known, ABC) == []
    with pytest.raises(ValueError, match=r"label 0 is 'cat' in a\.json .*'bat' in b\.json .*same"):
        check_class_order([("a.json", cab), ("b.json", bac)], ABC)
    with pytest.raises(ValueError, match=r"'ape' in a\.json .*'cat' in b\.json"):
        check_class_order([("a.json", ABC), ("b.json", cab)], ABC)


def test_training_files_are_read_where_they_are(tmp_path):
    use_checked_annotations()
    content = dict(categories=[dict(id=i, name=name) for i, name in enumerate(("dog", *ABC[::-1]))])
    (tmp_path / "a b.json").write_text(json.dumps(content))
    here = dict(data_root=str(tmp_path), ann_file="a b.json")
    cfg = config(train=dict(type="RepeatDataset", dataset=coco(ABC, **here)))
    assert training_file_orders(cfg) == [(str(tmp_path / "a b.json"), ABC[::-1])]
    for one in (
        coco(ABC, ann_file="elsewhere.json"),
        coco(("ape",), **here),  # one class has one order
        dict(type="VOCDataset", metainfo=dict(classes=ABC), **here),
        dict(type="OfAnotherPackage", metainfo=dict(classes=ABC), **here),
    ):
        assert training_file_orders(config(train=one)) == []
    assert training_file_orders(config(val=coco(ABC, **here))) == []
    for text in ("{", "{}", "[]", '{"categories": [3]}', '{"categories": [{"id": 1}]}'):
        (tmp_path / "a b.json").write_text(text)
        with pytest.raises(AnnotationError, match=r"categories of .*a b\.json cannot be read"):
            training_file_orders(cfg)
