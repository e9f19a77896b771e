"""From a user's config to one with an energy head: as a config, and as a file that runs."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from mmdet.apis import inference_detector
from mmdet.apis import init_detector as mmdets_init_detector
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.runner import Runner

from ebm_mmdet.apis import add_energy_head, load_detector, write_energy_config
from ebm_mmdet.apis.config_text import Inherited, Noted, plain, render
from ebm_mmdet.apis.whole_images import whole_image_dataset
from tests.ebm_mmdet.apis.user_project import ONE_STAGE, TWO_STAGE, make_project


def without_scopes(value):
    """Bases from another package mark what is inherited with its scope, merged configs do not."""
    if isinstance(value, dict):
        return {key: without_scopes(each) for key, each in value.items() if key != "_scope_"}
    return [without_scopes(each) for each in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("detector", [TWO_STAGE, ONE_STAGE], ids=["two_stage", "one_stage"])
def test_the_file_is_the_config_and_trains(tmp_path, monkeypatch, detector):
    project = make_project(tmp_path / "my work", detector)
    monkeypatch.chdir(project)
    path = write_energy_config("my_detector.py", "epoch_12.pth", max_iters=2)
    assert path.name == "my_detector_ebm.py"
    cfg = Config.fromfile(path)
    made = add_energy_head(Config.fromfile("my_detector.py"), "epoch_12.pth", max_iters=2)
    for key in made:
        assert without_scopes(cfg[key]) == without_scopes(made[key]), key
    assert set(cfg) - set(made) == {"detector", "custom_imports"}
    two_stage = detector is TWO_STAGE
    head = cfg.model.energy_head
    assert head.strides == ([4, 8, 16, 32] if two_stage else [8, 16, 32])
    assert head.get("level_rule") == (None if two_stage else "concat")
    assert head.fc_channels == ([32, 32] if two_stage else [256, 256])
    assert cfg.train_dataloader.dataset.pipeline[1].scale == (96, 96)
    assert cfg.val_evaluator.type == "HighIoUCocoMetric"

    cfg.work_dir = str(tmp_path / "out")
    runner = Runner.from_cfg(cfg)
    before = {key: value.clone() for key, value in runner.model.detector.state_dict().items()}
    runner.train()
    trained = tmp_path / "out" / "iter_2.pth"
    state = torch.load(trained, weights_only=False)["state_dict"]
    plain_state = torch.load("epoch_12.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(state[f"detector.{key}"], plain_state[key]) for key in before)

    # mmdet's own function needs no cfg_options.
    model = mmdets_init_detector(str(path), str(trained), device="cpu")
    found = inference_detector(model, "data/im 1.png").pred_instances
    assert found.log_density.shape == found.scores.shape == (5,)


def test_an_existing_file_is_never_overwritten(tmp_path):
    project = make_project(tmp_path / "a")
    path = project / "my_detector_ebm.py"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"my_detector_ebm\.py exists and is not overwritten"):
        write_energy_config(project / "my_detector.py", "epoch_12.pth")
    assert path.read_text() == "mine"
    other = write_energy_config(project / "my_detector.py", "x.pth", tmp_path / "b" / "other.py")
    assert "_base_ = '../a/my_detector.py'" in other.read_text()
    assert Config.fromfile(other).model.detector.type == "FasterRCNN"


def test_folders_may_be_links(tmp_path, monkeypatch):
    """A `work_dirs` on another disk, and a project that is reached by a link."""
    project = make_project(tmp_path / "a" / "b" / "project", ONE_STAGE)
    (tmp_path / "disk" / "runs").mkdir(parents=True)
    (project / "work_dirs").symlink_to(tmp_path / "disk" / "runs")
    (tmp_path / "link").symlink_to(project)
    monkeypatch.chdir(tmp_path / "link")
    for config, out in (
        ("my_detector.py", "work_dirs/fit/one_ebm.py"),
        (tmp_path / "link" / "my_detector.py", tmp_path / "link" / "work_dirs" / "two_ebm.py"),
        (tmp_path / "link" / "my_detector.py", tmp_path / "three_ebm.py"),
    ):
        written = write_energy_config(config, "epoch_12.pth", out)
        assert Config.fromfile(written).model.detector.type == "RetinaNet"


@pytest.mark.parametrize("type_", ["CocoMetric", "mmdet.CocoMetric"])
def test_all_metrics_of_coco_count_as_many_boxes(tmp_path, type_):
    """One, or some of a list, whose other settings and other members stay."""
    project = make_project(tmp_path / "a", ONE_STAGE)
    cfg = Config.fromfile(project / "my_detector.py")
    coco = dict(type=type_, ann_file="a.json", metric="bbox")
    cfg.val_evaluator, cfg.test_evaluator = coco, [coco, dict(type="VOCMetric", metric="mAP")]
    cfg.dump(project / "listed.py")
    path = write_energy_config(project / "listed.py", "x.pth", max_dets=300)
    made = Config.fromfile(path)
    ours = dict(coco, type="HighIoUCocoMetric", max_dets=300)
    assert made.val_evaluator == ours
    assert made.test_evaluator == [ours, dict(type="VOCMetric", metric="mAP")]


def test_every_number_has_a_comment(tmp_path):
    project = make_project(tmp_path / "a", ONE_STAGE)
    text = write_energy_config(project / "my_detector.py", "x.pth").read_text()
    block = text[text.index("energy_head=") : text.index("train_cfg")]
    for name in ("num_classes", "roi_shift", "num_noise", "beta", "sigmas", "step_size", "decay"):
        assert re.search(rf"{name}=[^\n]*#|#[^\n]*\n\s*{name}=", block), name
    lines = [line for line in text.splitlines() if "tools/train.py" not in line]
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("detector", [TWO_STAGE, ONE_STAGE], ids=["two_stage", "one_stage"])
def test_residuals_scale_noise_and_steps(tmp_path, detector):
    project = make_project(tmp_path / "a", detector)
    cfg = Config.fromfile(project / "my_detector.py")

    def made(residuals):
        model = add_energy_head(cfg, "x.pth", residuals=residuals).model
        return np.array(model.energy_head.objective.noise.sigmas), np.array(model.refiner.step_size)

    usual = 0.1 if detector is TWO_STAGE else 0.05
    sigmas, steps = made(None)
    np.testing.assert_allclose(sigmas, usual * np.array([0.75, 1.5, 3.0]))
    signs = torch.tensor([1.0, -1.0]).repeat(20)[:, None].expand(40, 4)
    for factor in (0.5, 1.0, 1.5):  # where residuals are ±c, the spread is c
        of_noise, of_steps = made(factor * usual * signs)
        np.testing.assert_allclose(of_noise, factor * sigmas, rtol=1e-2)
        np.testing.assert_allclose(of_steps, factor**2 * steps, rtol=0.05)
    # With too few boxes, the usual ones.
    for ours, expected in zip(made(signs[:19]), (sigmas, steps)):
        np.testing.assert_array_equal(ours, expected)
    path = write_energy_config(project / "my_detector.py", "x.pth", residuals=usual * signs)
    assert f"times the spread of the detector's residuals, {usual:.3f} on 40" in path.read_text()


def test_the_users_config_does_not_change(tmp_path):
    project = make_project(tmp_path / "a", ONE_STAGE)
    cfg = Config.fromfile(project / "my_detector.py")
    before = cfg.pretty_text
    add_energy_head(cfg, "x.pth")
    assert cfg.pretty_text == before


def test_mosaics_and_their_hooks_are_left_out():
    cfg = get_config("mmdet::yolox/yolox_nano_8xb8-300e_coco.py")
    made = add_energy_head(cfg, "x.pth")
    dataset = made.train_dataloader.dataset
    assert dataset.type == "CocoDataset"
    assert [step["type"] for step in dataset.pipeline] == [
        "LoadImageFromFile",
        "LoadAnnotations",
        "Resize",
        "YOLOXHSVRandomAug",
        "RandomFlip",
        "Pad",
        "FilterAnnotations",
        "PackDetInputs",
    ]
    assert dataset.pipeline[2].scale == (416, 416)  # as in the test, not as in the mosaic
    assert made.custom_hooks == []
    assert made.model.detector.data_preprocessor.batch_augments is None
    assert made.model.energy_head.roi_shift == [-0.125, -0.0625, -0.0312]


LOAD = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)]
PLAIN = [*LOAD, dict(type="Resize", scale=(9, 9)), dict(type="PackDetInputs")]
COCO = dict(type="CocoDataset", ann_file="a.json")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: inner,
        lambda inner: dict(type="RepeatDataset", times=3, dataset=inner),
        lambda inner: dict(type="ClassBalancedDataset", oversample_thr=0.1, dataset=inner),
        lambda inner: dict(type="ConcatDataset", datasets=[inner, inner]),
    ],
)
def test_wrappers_of_data_sets_stay(wrap):
    mixed = dict(COCO, pipeline=[*LOAD, dict(type="CachedMosaic"), dict(type="PackDetInputs")])
    expected = dict(COCO, pipeline=PLAIN)
    test = [dict(type="LoadImageFromFile"), *PLAIN[2:]]
    assert whole_image_dataset(wrap(mixed), test) == wrap(expected)
    untouched = wrap(dict(COCO, pipeline=[*PLAIN[:2], dict(type="RandomCrop"), PLAIN[-1]]))
    assert whole_image_dataset(untouched, test) == untouched


def test_a_mixing_wrapper_with_nothing_to_mix_keeps_its_pipeline():
    inner = dict(COCO, pipeline=LOAD)
    wrapped = dict(type="MultiImageMixDataset", dataset=inner, pipeline=PLAIN[2:])
    assert whole_image_dataset(wrapped, []) == dict(COCO, pipeline=PLAIN)


def test_data_that_a_head_cannot_learn_from_is_refused_before_anything_is_built():
    semi = get_config(
        "mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py"
    )
    with pytest.raises(ValueError, match="semi-supervised training"):
        add_energy_head(semi, "x.pth")
    with pytest.raises(ValueError, match="has no train_dataloader"):
        add_energy_head(Config(dict(model=dict(type="FCOS"))), "x.pth")
    with pytest.raises(ValueError, match="an EBMDetector already"):
        add_energy_head(Config(dict(model=dict(type="EBMDetector"))), "x.pth")


def test_any_config_of_ours_loads_without_options(tmp_path):
    project = make_project(tmp_path / "a", ONE_STAGE)
    cfg = add_energy_head(Config.fromfile(project / "my_detector.py"), "x.pth")
    del cfg.model["backbone"]
    assert load_detector(cfg, None).refiner is not None


def test_text_and_dictionary_are_the_same_changes():
    changes = dict(
        a=Noted(dict(x=Noted(1, "one"), y=(1.5,), z=["b", dict(c=None)]), "all of it"),
        model=dict(_delete_=True, detector=Inherited(ConfigDict(type="T"), "_base_.model")),
        long=[dict(type="LoadImageFromFile", number=i, color_type="color") for i in range(3)],
    )
    text = render(changes)
    values: dict = {}
    exec(text.replace("_base_.model", "dict(type='T')"), values)
    assert {key: values[key] for key in changes} == plain(changes)
    assert "# all of it\na = dict(\n    x=1,  # one\n" in text
    with pytest.raises(ValueError, match=r"ndarray|array.* cannot be written into a config file"):
        render(dict(a=np.zeros(2)))
