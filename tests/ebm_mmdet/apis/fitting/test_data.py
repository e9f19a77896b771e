"""The data of a fit as users have it: wrappers, grey images, odd ids, few or many annotations."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ebm_mmdet.apis import add_energy_head
from ebm_mmdet.apis.fitting.data import _number_to_tune, split_data
from ebm_mmdet.apis.fitting.image_set import image_key
from ebm_mmdet.apis.fitting.images import Images
from ebm_mmdet.apis.fitting.items import UnreadableItem, read_item
from ebm_mmdet.apis.fitting.views import make_view
from ebm_mmdet.datasets import use_checked_annotations
from tests.ebm_mmdet.apis.user_project import ONE_STAGE, make_project


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path, ONE_STAGE))
    init_default_scope("mmdet")
    use_checked_annotations()
    return tmp_path


@pytest.mark.parametrize(
    ("images", "to_tune"),
    [(2, 1), (9, 1), (49, 9), (50, 10), (100, 20), (150, 20), (400, 40), (9000, 200)],
)
def test_images_to_tune_on(images, to_tune):
    assert _number_to_tune(images) == to_tune


def test_more_images_are_never_fewer_to_tune_on():
    numbers = [_number_to_tune(images) for images in range(2, 3000)]
    assert numbers == sorted(numbers)


def other_order(content):
    """Ids and annotations stay as they are."""
    content["categories"].reverse()


def test_files_that_number_classes_differently_are_refused(project):
    """mmdet numbers labels in the order of each file, whatever metainfo says."""
    lines = other_validation_file(other_order) + "))"
    message = (
        r"(?s)label 0 is 'ape' in data/boxes\.json \(ape, bat, cat\), and 'cat' in data/val\.json "
        r"\(cat, bat, ape\)\. Put .*detector's classes are ape, bat, cat"
    )
    with pytest.raises(ValueError, match=message):
        split(lines)
    # Two training files, of which one is inside of wrappers.
    one = "_base_.train_dataloader.dataset"
    both = f"[{one}, dict({one}, ann_file='val.json')]"
    lines = (
        "train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=2, "
        f"dataset=dict(type='ConcatDataset', datasets={both})))"
    )
    with pytest.raises(ValueError, match=r"'ape' in data/boxes\.json.*'cat' in data/val\.json"):
        split(lines)


def test_files_that_agree_with_each_other_but_not_with_the_classes(project):
    """A detector that was trained on them has their order: a fit goes on, with a sentence."""
    assert not [note for note in split().notes if "order" in note]
    edit(other_order)
    data = split()
    (note,) = [note for note in data.notes if "order of the categories" in note]
    assert "label 0 is 'cat' in data/boxes.json (cat, bat, ape), and 'ape' in" in note
    assert sorted(int(label) for i in range(3) for label in data.judge.truth(i)[1]) == [0, 1, 2]


def test_an_image_of_another_size_than_stated_is_named(project):
    """The image that is read first at once, and any other one when it is read."""
    data = split()
    name = data.judge[0]["data_samples"].img_path

    def twice(content):
        for each in content["images"]:
            each["width"] *= 2

    lines = other_validation_file(twice) + "))"
    message = (
        r"(?s)the {} data cannot be used: .*im \d\.png, of data/{}\.json, has 90 x \d\d pixels"
    )
    message += r".* are 180 x \d\d.*give the image that was annotated, or correct width"
    with pytest.raises(ValueError, match=message.format("validation", "val")):
        split(lines)
    edit(twice)
    with pytest.raises(ValueError, match=message.format("training", "boxes")):
        split()
    picture = cv2.imread(name)
    cv2.imwrite(name, np.concatenate([picture, picture]))
    with pytest.raises(UnreadableItem, match=r"im \d\.png, .* has 90 x 1\d\d pixels"):
        data.judge[0]
    cv2.imwrite(name, picture)
    assert data.judge[0]  # the same command goes on


class Replaces:
    """A data set that gives its second image for the first, as mmengine's do for an empty one."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __getitem__(self, index):
        return self.dataset[1]

    def get_data_info(self, index):
        return self.dataset.get_data_info(index)


def test_the_size_of_an_image_in_place_of_another_is_not_compared(project):
    first, second = (split().judge.dataset.get_data_info(i) for i in (0, 1))
    assert first["height"] != second["height"]
    item = read_item(Replaces(split().judge.dataset), 0, image_key)
    assert item["data_samples"].img_path == second["img_path"]


def split(lines=""):
    """The split of the project's data after more lines of its config."""
    with open("changed.py", "w", encoding="utf-8") as file:
        file.write(f"_base_ = './my_detector.py'\n{lines}\n")
    cfg = add_energy_head(Config.fromfile("changed.py"), "epoch_12.pth")
    return split_data(cfg, 0, Images())


def edit(change):
    """Change the annotation file."""
    with open("data/boxes.json", encoding="utf-8") as file:
        content = json.load(file)
    change(content)
    with open("data/boxes.json", "w", encoding="utf-8") as file:
        json.dump(content, file)


REPEAT = "train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=3, "
BALANCE = REPEAT.replace("'RepeatDataset', times=3", "'ClassBalancedDataset', oversample_thr=0.9")
MIX = REPEAT.replace("'RepeatDataset', times=3", "'MultiImageMixDataset', pipeline={mixed}")
INNER = "dataset=_base_.train_dataloader.dataset))"
UNMIXED = "[dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]"
MOSAIC = "[dict(type='Mosaic', img_scale=(96, 96)), dict(type='PackDetInputs')]"


@pytest.mark.parametrize(
    ("lines", "at_least"),
    [
        (REPEAT + INNER, 6),
        (BALANCE + INNER, 2),
        (MIX.format(mixed=UNMIXED) + INNER, 2),
        (MIX.format(mixed=MOSAIC) + INNER, 2),
    ],
    ids=["repeated", "balanced", "mixed, nothing to mix", "mixed"],
)
def test_wrappers(project, lines, at_least):
    if "MultiImageMix" in lines:  # its inner pipeline does not pack
        text = (project / "my_detector.py").read_text()
        inner = "[dict(type='LoadAnnotations', with_bbox=True), pack]))"
        assert inner in text
        (project / "my_detector.py").write_text(text.replace(inner, inner.replace(", pack", "")))
    data = split(lines)
    kept_out = {*data.held_out}
    assert (data.images, len(data.tune), len(kept_out)) == (2, 1, 1)
    assert len(data.indices) >= at_least
    for index in data.indices:
        item = data.train[index]
        assert item["data_samples"].metainfo["img_path"] not in kept_out
        assert len(item["data_samples"].gt_instances) == 1
    # The images to tune on come whole, from the test pipeline, once each.
    (key,) = kept_out
    assert data.tune[0]["data_samples"].metainfo["img_path"] == key
    assert max(data.tune[0]["inputs"].shape[1:]) == 96
    assert len(data.tune.truth(0)[0]) == 1


def test_grey_images(project):
    for path in (project / "data").glob("*.png"):
        cv2.imwrite(str(path), np.full(cv2.imread(str(path)).shape[:2], 7, np.uint8))
    data = split()
    assert data.train[data.indices[0]]["inputs"].shape[0] == 3


def test_ids(project):
    def spread(content):
        for number, each in zip((7, 90000, 3), content["categories"]):
            for annotation in content["annotations"]:
                annotation["category_id"] += (number - each["id"]) * (
                    annotation["category_id"] == each["id"]
                )
            each["id"] = number

    edit(spread)
    assert sorted(label for i in range(3) for label in split().judge.truth(i)[1]) == [0, 1, 2]

    def as_text(content):
        for each in content["categories"]:
            each["id"] = str(each["id"])

    edit(as_text)
    with pytest.raises(ValueError, match=r"boxes\.json.*'id'.*integer, not a string"):
        split()


NO_VALIDATION = "val_dataloader = None\nval_evaluator = None\nval_cfg = None\n"


def test_no_validation_annotations(project):
    empty = json.loads((project / "data" / "boxes.json").read_text())
    empty["annotations"] = []
    (project / "data" / "empty.json").write_text(json.dumps(empty))
    nothing = "val_dataloader = dict(dataset=dict(ann_file='empty.json'))"
    for lines in (nothing, NO_VALIDATION + nothing.replace("val_", "test_")):
        data = split(lines)
        assert data.judged_on_training_images
        assert (data.images, len(data.tune), len(data.judge)) == (1, 1, 1)
        assert not {data.judge.indices[0], data.tune.indices[0]} & {*data.indices}
        assert "no validation annotations" in data.notes[0]


def test_many_objects(project):
    def many(content):
        first = content["annotations"][0]
        content["annotations"] += [{**first, "id": 100 + i} for i in range(150)]

    assert split().max_dets == 100
    edit(many)
    data = split()
    assert (data.most_objects, data.max_dets, data.max_dets_beyond_coco) == (151, 300, 300)
    assert "up to 151 objects" in data.notes[-2]
    assert "keeps at most 5 boxes" in data.notes[-1]
    assert "raise model.test_cfg.max_per_img" in data.notes[-1]


def test_small_objects(project):
    data = split()
    size = data.object_size()
    (box,), _, _ = data.tune.truth(0)
    width, height = data.tune[0]["data_samples"].metainfo["scale_factor"]
    assert size == pytest.approx(np.sqrt((box[2] - box[0]) * width * (box[3] - box[1]) * height))
    cfg = Config.fromfile("my_detector.py")
    for side, source, strides in (
        (40, None, [8, 16, 32]),
        (20, ["neck", "backbone.layer1"], [4, 8]),
        (9, ["neck", "backbone.layer1"], [4, 8]),
    ):
        made = add_energy_head(cfg, "epoch_12.pth", object_size=side)
        assert made.model.get("feature_source") == source
        assert made.model.energy_head.strides == strides
        assert made.model.energy_head.region_scale == 1.3


def test_an_image_that_is_absent_is_said_at_once(project):
    (project / "data" / "im 2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 3 images of the training .*im 2\.png"):
        split()


def test_an_image_that_is_broken_is_named(project):
    data = split()
    for path in (project / "data").glob("*.png"):
        path.write_bytes(b"\x89PNG no more")
    with pytest.raises(
        ValueError,
        match=r"im \d\.png, of data/boxes\.json, cannot be read by the .*same command goes",
    ):
        data.tune[0]
    model = None  # it is read before the model is needed
    with pytest.raises(ValueError, match=r"im \d\.png.* cannot be read"):
        make_view(model, data, data.indices[0])


REST = "*_base_.val_dataloader.dataset.pipeline[1:]"
IMAGE = "dict(type='LoadImageFromFile')"
MASKS = "dict(type='LoadAnnotations', with_bbox=True, with_mask=True)"


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([IMAGE, MASKS], r"1 of 1 boxes without a polygon.*with_mask=False"),
        (
            [IMAGE, "dict(type='LoadProposals')"],
            r"KeyError: 'proposals'.*the data set does not giv",
        ),
        (["dict(type='LoadImageFromNDArray')"], r"KeyError: 'img'\).*choose the loaders"),
    ],
    ids=["no polygons", "no proposals", "no loader"],
)
def test_an_item_to_judge_on_that_its_pipeline_cannot_read(project, steps, message):
    """It is said before any work, with image, annotation file and remedy."""
    lines = f"val_dataloader = dict(dataset=dict(pipeline=[{', '.join(steps)}, {REST}]))"
    with pytest.raises(ValueError, match=rf"(?s)im \d\.png.*of data/boxes\.json.*{message}"):
        split(lines)


def other_validation_file(change=lambda content: None):
    """Lines for a validation file of its own, without the brackets that close them."""
    with open("data/boxes.json", encoding="utf-8") as file:
        content = json.load(file)
    change(content)
    with open("data/val.json", "w", encoding="utf-8") as file:
        json.dump(content, file)
    return "val_dataloader = dict(dataset=dict(ann_file='val.json'"


def test_polygons_that_the_validation_file_lacks(project):
    """The training data has them, and the last validation image does not."""

    def polygons(content):
        for each in content["annotations"]:
            x, y, w, h = each["bbox"]
            each["segmentation"] = [[x, y, x + w, y, x + w, y + h]]

    edit(polygons)
    lines = other_validation_file(lambda content: content["annotations"][2].pop("segmentation"))
    masks = f", pipeline=[{IMAGE}, {MASKS}, {REST}]))"
    with pytest.raises(
        ValueError, match=r"im 3\.png of the validation data, of data/val\.json, ha"
    ):
        split(lines + masks)
    assert len(split(f"{lines}))").judge) == 3  # no masks are wanted
    assert len(split(other_validation_file() + masks).judge) == 3


def test_files_to_judge_on_that_are_all_absent(project):
    lines = other_validation_file() + ", data_prefix=dict(img='moved/')))"
    message = r"the validation data cannot be used: .*im 1\.png, of data/val\.json, .*data_prefix"
    with pytest.raises(ValueError, match=message):
        split(lines)


def test_a_pipeline_that_does_not_pack(project):
    packs_not = "_base_.val_dataloader.dataset.pipeline[:-1]"
    with pytest.raises(ValueError, match=r"no inputs and no data_samples.*end with PackDetInputs"):
        split(f"val_dataloader = dict(dataset=dict(pipeline={packs_not}))")


def test_an_item_to_train_on_that_its_pipeline_cannot_read(project):
    with pytest.raises(ValueError, match=r"the training data cannot be used: .*'proposals'"):
        split(
            "train_dataloader = dict(dataset=dict(pipeline=["
            "dict(type='LoadProposals'), *_base_.train_dataloader.dataset.pipeline]))"
        )
