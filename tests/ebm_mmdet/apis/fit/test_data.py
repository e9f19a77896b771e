"""What is tuned or judged on is never trained on, whatever wraps the data."""

from __future__ import annotations

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ebm_mmdet.apis import add_energy_head
from ebm_mmdet.apis.fit.data import split_data
from ebm_mmdet.apis.fit.image_set import ImageSet
from ebm_mmdet.apis.fit.views import make_view
from ebm_mmdet.datasets import ShapesDataset
from tests.ebm_mmdet.apis.user_project import ONE_STAGE, make_project


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("user") / "a", ONE_STAGE)


WRAPPED = {
    "plain": "dict(own, pipeline=train)",
    "repeated": "dict(type='RepeatDataset', times=3, dataset=dict(own, pipeline=train))",
    "balanced": "dict(type='ClassBalancedDataset', oversample_thr=0.9, "
    "dataset=dict(own, pipeline=train))",
    "mixed": "dict(type='MultiImageMixDataset', dataset=dict(own, pipeline=train[:2]), "
    "pipeline=[dict(type='Mosaic', img_scale=(96, 96)), dict(type='PackDetInputs')])",
    "joined": "dict(type='ConcatDataset', datasets=[dict(own, pipeline=train), "
    "dict(own, pipeline=train)])",
}


def config(project, dataset: str = WRAPPED["plain"], more: str = "") -> Config:
    text = (
        ONE_STAGE
        + (project / "my_detector.py").read_text()[len(ONE_STAGE) :]
        + "\nown = dict(data)\nown.pop('_delete_')\n"  # of the base's data set, for the outermost
        + "train = train_dataloader['dataset']['pipeline']\n"
        + "train = [train[0], train[2], train[1], dict(type='PackDetInputs')]\n"
        + f"train_dataloader['dataset'] = dict({dataset}, _delete_=True)\n{more}\n"
    )
    path = project / "case.py"
    path.write_text(text)
    return add_energy_head(Config.fromfile(path), "epoch_12.pth")


@pytest.mark.parametrize("kind", WRAPPED)
def test_held_out_images_are_not_trained_on(project, monkeypatch, kind):
    monkeypatch.chdir(project)
    data = split_data(config(project, WRAPPED[kind]), seed=0)
    trained = [data.train.get_data_info(i)["img_path"] for i in data.indices]
    tuned = {data.tune.dataset.get_data_info(i)["img_path"] for i in data.tune.indices}
    assert tuned == data.held_out
    assert len(tuned) == len(data.tune) == 1
    assert not tuned & set(trained)
    assert len(set(trained)) == data.images == data.boxes == 2
    times = {"repeated": 3, "joined": 2}.get(kind)
    if times:
        assert len(trained) == 2 * times
    assert len(data.judge) == 3
    assert not data.judged_on_training_images
    item = data.tune[0]  # by the test's pipeline
    assert max(item["inputs"].shape) == 96
    boxes, labels, ignored = data.tune.truth(0)
    assert boxes.shape == (1, 4)
    assert not ignored.any()
    assert 0 <= labels[0] < 3


def test_without_validation_annotations_a_third_part_is_judged_on(project, monkeypatch):
    monkeypatch.chdir(project)
    content = json.loads((project / "data" / "boxes.json").read_text())
    (project / "data" / "bare.json").write_text(json.dumps({**content, "annotations": []}))
    more = "val_dataloader['dataset']['ann_file'] = 'bare.json'"
    data = split_data(config(project, more=more), seed=0)
    assert data.judged_on_training_images
    assert (data.images, len(data.tune), len(data.judge)) == (1, 1, 1)
    assert set(data.tune.indices).isdisjoint(data.judge.indices)
    assert "no validation annotations" in data.notes[0]


def test_generated_images_give_their_boxes_in_pixels_of_the_image():
    init_default_scope("mmdet")
    pipeline = [dict(type="Resize", scale=(80, 80)), dict(type="PackDetInputs")]
    small, full = (
        ShapesDataset(2, image_size=(160, 160), pipeline=steps)
        for steps in (pipeline, pipeline[1:])
    )
    for position in range(2):
        boxes, labels, _ = ImageSet(small, [0, 1]).truth(position)
        expected = full[position]["data_samples"].gt_instances
        torch.testing.assert_close(torch.tensor(boxes).float(), expected.bboxes.tensor)
        assert labels.tolist() == expected.labels.tolist()


def test_an_image_that_took_the_place_of_another_is_not_trained_on(project, monkeypatch):
    monkeypatch.chdir(project)
    data = split_data(config(project), seed=0)

    class Elsewhere:
        def __getitem__(self, index):
            return data.tune[0]  # as mmengine's data sets do for an image that lost its boxes

    object.__setattr__(data, "train", Elsewhere())
    assert make_view(None, data, 0) is None
