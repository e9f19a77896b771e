"""Calibration of intervals, from annotated images to a user's file."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from pycocotools.coco import COCO

from ebm_mmdet.apis import (
    EBMInferencer,
    add_energy_head,
    calibrate,
    fit_intervals,
    load_detector,
    matched_sides,
)
from ebm_mmdet.apis.calibration_run import CalibrationRun
from ebm_mmdet.apis.fitting.items import UnreadableItem
from ebm_mmdet.commands import main
from ebm_mmdet.energy import expected_coverage
from ebm_mmdet.engine.stored_intervals import (
    StoredIntervalsHook,
    model_digest,
    store_intervals,
)
from ebm_mmdet.files import write_json
from tests.ebm_mmdet.apis.noisy_oracle import CLASSES, CONFIG, NoisyOracle
from tests.ebm_mmdet.apis.user_project import ONE_STAGE, make_project

sides_module = importlib.import_module("ebm_mmdet.apis.matched_sides")
"""The package has a function of the same name."""


@pytest.fixture(scope="module")
def oracle(tmp_path_factory) -> Path:
    """A folder with configs of an oracle on two sets of images, and its weights."""
    folder = tmp_path_factory.mktemp("user") / "my work"
    folder.mkdir()
    for name, seed in (("calibration", 1), ("test", 2)):
        (folder / f"{name}.py").write_text(CONFIG.format(seed=seed))
    state = NoisyOracle().state_dict()
    meta = dict(dataset_meta=dict(classes=CLASSES), epoch=3)
    torch.save(dict(state_dict=state, meta=meta, optimizer=dict(lr=1.0)), folder / "best.pth")
    return folder


def held(oracle: Path, checkpoint: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which sides (n, 4) of the test images are in their intervals; labels; widths."""
    cfg = Config.fromfile(oracle / "test.py")
    model = load_detector(cfg, checkpoint)
    inside, labels, widths = [], [], []
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    for i in range(len(dataset)):
        item = dataset[i]
        data = dict(inputs=[item["inputs"]], data_samples=[item["data_samples"]])
        with torch.no_grad():
            (sample,) = model.test_step(data)
        low, high = sample.pred_instances.side_interval.unbind(-1)
        truth = sample.gt_instances.bboxes
        inside.append((truth >= low) & (truth <= high))
        labels.append(sample.pred_instances.labels)
        widths.append(high - low)
    return torch.cat(inside), torch.cat(labels), torch.cat(widths)


@pytest.mark.parametrize(
    "options",
    [dict(), dict(joint=True), dict(spread="size"), dict(level=0.7), dict(by_image=True)],
    ids=str,
)
def test_intervals_hold_on_other_images(oracle, tmp_path, options):
    """In all, and for each class, though the stated spread is wrong by the class."""
    out = tmp_path / "with blanks" / "c.pth"
    before = (oracle / "best.pth").read_bytes()
    # The images of the two configs are other draws of the same kind.
    found = calibrate(oracle / "calibration.py", oracle / "best.pth", out=out, **options)
    inside, labels, widths = held(oracle, out)
    level, number = options.get("level", 0.9), found.facts["detections"]
    assert number > 350
    shown = inside.all(1, keepdim=True) if options.get("joint") else inside
    mean, std = expected_coverage(number, level)
    error = math.hypot(std, math.sqrt(mean * (1 - mean) / len(shown)))
    assert ((shown.float().mean(0) - mean).abs() < 4 * error).all()
    if not options.get("by_image"):
        for label in range(len(CLASSES)):
            rows = shown[labels == label].float()
            error = math.sqrt(level * (1 - level) * (1 / len(rows) + 1 / int(number / 3)))
            assert ((rows.mean(0) - level).abs() < 4 * error + 0.02).all()
    if options == dict():  # wider where errors are larger
        width = [float(widths[labels == label].mean()) for label in range(len(CLASSES))]
        assert width == sorted(width)
    assert (oracle / "best.pth").read_bytes() == before
    stored = torch.load(out, weights_only=True)
    assert sorted(stored) == ["meta", "state_dict"]
    assert stored["meta"]["epoch"] == 3


def test_a_detector_without_a_spread_has_intervals_of_its_size(oracle, tmp_path):
    path = tmp_path / "plain.py"
    text = (oracle / "calibration.py").read_text()
    path.write_text(text.replace("type='NoisyOracle'", "type='NoisyOracle', with_std=False"))
    lines = []
    found = calibrate(path, oracle / "best.pth", out=tmp_path / "a.pth", say=lines.append)
    assert found.spread == "size"
    text = "\n".join(lines)
    assert "coverage of each side: 90." in text
    assert f"wrote {tmp_path / 'a.pth'}" in text
    with pytest.raises(
        ValueError, match="need box_cov, box_std or side_std.*another spread: size, pixels"
    ):
        calibrate(path, oracle / "best.pth", out=tmp_path / "b.pth", spread="std")
    assert not (tmp_path / "b.pth").exists()


def test_the_bounds_are_those_of_each_group_by_the_definition(oracle):
    """An independent loop over the groups, with numpy's sort."""
    cfg = Config.fromfile(oracle / "calibration.py")
    model = load_detector(cfg, oracle / "best.pth")
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    sides = matched_sides(model, dataset, 0.8)
    assert dataset.reads == len(dataset)  # images are read once
    found = fit_intervals(sides, len(CLASSES), 0.8, min_count=60)
    pixels = (sides.boxes[:, 2:] - sides.boxes[:, :2]).repeat(1, 2).numpy()
    ratio = (sides.residual.numpy() * pixels) / (sides.spread[..., 0].numpy() * pixels)
    size = np.digitize(np.sqrt(pixels[:, 0] * pixels[:, 1]), [32, 96])
    pair = sides.labels.numpy() * 3 + size
    source = np.array(found.facts["source"])[: len(CLASSES), :3]
    assert {0, 3} <= set(source.flat) <= {0, 3, 4}
    together = np.isin(pair, np.flatnonzero(source == 3))
    for cell in range(3 * len(CLASSES)):
        place = divmod(cell, 3)
        rows = {0: pair == cell, 3: together, 4: pair >= 0}[source[place]]
        kth = np.sort(np.abs(ratio[rows]), axis=0)[math.ceil((rows.sum() + 1) * 0.8) - 1]
        np.testing.assert_allclose(found.bounds[place], kth, rtol=1e-5)
        assert found.facts["counts"][place[0]][place[1]] == rows.sum() >= 60


def test_refusals_come_before_the_work(oracle, tmp_path):
    config, weights = oracle / "calibration.py", oracle / "best.pth"

    def refused(error, match, **options):
        with pytest.raises(error, match=match):
            calibrate(options.pop("config", config), weights, **options)

    (tmp_path / "there.pth").write_bytes(b"mine")
    refused(FileExistsError, r"there\.pth exists and is not over", out=tmp_path / "there.pth")
    assert (tmp_path / "there.pth").read_bytes() == b"mine"
    refused(ValueError, "level=90", level=90)
    refused(ValueError, "spread='sigma'; use one of std", spread="sigma")
    refused(FileNotFoundError, r"no annotation file .*no\.json", ann_file=tmp_path / "no.json")
    refused(FileNotFoundError, "no folder", images=tmp_path / "no")
    few = tmp_path / "few.py"
    few.write_text(config.read_text().replace("num_images=90", "num_images=3"))
    refused(ValueError, r"detections with a score of 0\.3.*0\.99 takes 99", config=few, level=0.99)
    refused(ValueError, r"^0 detections with a score of 0\.95", score_thr=0.95)
    other = tmp_path / "other.pth"
    state = torch.load(weights, weights_only=True)
    torch.save(
        dict(state_dict=state["state_dict"], meta=dict(dataset_meta=dict(classes=["a"]))), other
    )
    with pytest.raises(ValueError, match=r"classes are \['a'\], and those of the data set"):
        calibrate(config, other)
    assert not list(oracle.glob("*_intervals.pth*"))


def test_an_interrupted_calibration_goes_on(oracle, tmp_path, monkeypatch):
    """Killed twice, with what half a minute loses; the bounds are those of a call in one piece."""
    config, weights, out = oracle / "calibration.py", oracle / "best.pth", tmp_path / "a b.pth"
    whole = calibrate(config, weights, out=tmp_path / "whole.pth")
    real, positions, stops = sides_module.match_detections, [], []

    def interrupted(truth, position, *rest):
        positions.append(position)
        if position in stops:
            raise KeyboardInterrupt
        return real(truth, position, *rest)

    monkeypatch.setattr(sides_module, "match_detections", interrupted)
    for stops[:] in ([0], [40], [41]):
        with pytest.raises(KeyboardInterrupt):
            calibrate(config, weights, out=out)
    assert positions == [0, *range(41), 40, 41]
    unfinished = tmp_path / "a b.pth.unfinished"
    parts = sorted(unfinished.glob("part_*.pth"))
    assert len(parts) == 2
    with pytest.raises(FileExistsError, match="calibration with another level; give a new --out"):
        calibrate(config, weights, out=out, level=0.8)
    stops.clear()
    lines = []
    found = calibrate(config, weights, out=out, say=lines.append)
    assert positions[-49:] == list(range(41, 90))
    assert f"going on from {unfinished}" in lines
    assert torch.equal(found.bounds, whole.bounds)
    assert found.facts == whole.facts
    assert not unfinished.exists()


def test_a_broken_image_does_not_lose_what_was_done(oracle, tmp_path, monkeypatch):
    """Repaired, the same command goes on."""
    out, real = tmp_path / "a.pth", sides_module.ImageSet.__getitem__

    def broken(self, position):
        if position == 60:
            raise UnreadableItem("image 60 cannot be read; repair it")
        return real(self, position)

    monkeypatch.setattr(sides_module.ImageSet, "__getitem__", broken)
    with pytest.raises(ValueError, match="image 60 cannot be read"):
        calibrate(oracle / "calibration.py", oracle / "best.pth", out=out)
    assert (tmp_path / "a.pth.unfinished").is_dir()
    monkeypatch.setattr(sides_module.ImageSet, "__getitem__", real)
    lines = []
    calibrate(oracle / "calibration.py", oracle / "best.pth", out=out, say=lines.append)
    assert lines[0].startswith("going on from")


def during_matching(monkeypatch, position: int, action) -> None:
    """Lets something happen, once, when this image is matched."""
    real, done = sides_module.match_detections, []

    def matched(truth, at, *rest):
        if at == position and not done:
            done.append(at)
            action()
        return real(truth, at, *rest)

    monkeypatch.setattr(sides_module, "match_detections", matched)


@pytest.mark.parametrize("options", [dict(), dict(joint=True), dict(level=0.8)], ids=str)
def test_a_second_call_at_the_same_time_is_refused(oracle, tmp_path, monkeypatch, options):
    """Also of one whose folder has been claimed, and that matches nothing yet or everything."""
    arguments = oracle / "calibration.py", oracle / "best.pth"
    out, refusals = tmp_path / "a.pth", []

    def second():
        with pytest.raises(FileExistsError) as refused:
            calibrate(*arguments, out=out, **options)
        refusals.append(str(refused.value))

    for position in (0, 89):
        during_matching(monkeypatch, position, second)
        found = calibrate(*arguments, out=out)
        stored = torch.load(out, weights_only=True)["meta"]["side_intervals"]
        assert stored == found.to_meta()
        out.unlink()
    text = "another level" if "level" in options else r"another process works in .*a\.pth\.unf"
    assert len(refusals) == 2
    assert all(re.search(text, each) for each in refusals)
    assert not list(tmp_path.iterdir())


def test_a_call_that_ends_while_another_one_loads_is_not_replaced(oracle, tmp_path, monkeypatch):
    """Neither had begun to match when the other one looked."""
    arguments, out = (oracle / "calibration.py", oracle / "best.pth"), tmp_path / "a.pth"
    real, whole = CalibrationRun.model, []

    def loads(self, *rest):
        if not whole:
            whole.append(None)
            calibrate(*arguments, out=out, joint=True)
            whole.append(out.read_bytes())
        return real(self, *rest)

    monkeypatch.setattr(CalibrationRun, "model", loads)
    with pytest.raises(FileExistsError, match=r"a\.pth exists and is not overwritten"):
        calibrate(*arguments, out=out)
    assert out.read_bytes() == whole[1]
    assert list(tmp_path.iterdir()) == [out]


def test_a_file_that_somebody_makes_meanwhile_stays_and_so_do_the_matches(
    oracle, tmp_path, monkeypatch
):
    arguments, out = (oracle / "calibration.py", oracle / "best.pth"), tmp_path / "a.pth"
    during_matching(monkeypatch, 80, lambda: out.write_bytes(b"mine"))
    with pytest.raises(FileExistsError, match=r"a\.pth exists and is not overwritten"):
        calibrate(*arguments, out=out)
    assert out.read_bytes() == b"mine"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.pth", "a.pth.unfinished"]
    out.unlink()
    monkeypatch.setattr(sides_module, "match_detections", lambda *_: 1 / 0)
    calibrate(*arguments, out=out)  # nothing is matched again
    assert list(tmp_path.iterdir()) == [out]


def test_two_calls_that_claim_the_folder_at_once_do_not_mix(oracle, tmp_path, monkeypatch):
    """The settings that are there must be those of the one that matches, or a later one errs."""
    module = importlib.import_module("ebm_mmdet.apis.unfinished_calibration")
    real = module.claim_folder

    def claim(folder, wanted, *rest):
        begun = real(folder, wanted, *rest)
        write_json(folder / "settings.json", {**wanted, "level": 0.5})  # the other one was later
        return begun

    monkeypatch.setattr(module, "claim_folder", claim)
    arguments, out = (oracle / "calibration.py", oracle / "best.pth"), tmp_path / "a.pth"
    with pytest.raises(FileExistsError, match="has begun in .* meanwhile, with another level"):
        calibrate(*arguments, out=out)
    assert not out.exists()


@pytest.mark.parametrize("links", [True, False])
def test_a_stored_checkpoint_never_takes_the_place_of_another_one(tmp_path, monkeypatch, links):
    """Nor on a file system without links; half of one is not left behind."""
    torch.save(dict(state_dict={}, meta={}), tmp_path / "best.pth")
    if not links:

        def link(*_):
            raise PermissionError("no links here")

        monkeypatch.setattr(os, "link", link)
    out = tmp_path / "out.pth"
    store_intervals(tmp_path / "best.pth", out, "key", {"a": 1})
    content = out.read_bytes()
    with pytest.raises(FileExistsError, match=r"out\.pth exists and is not overwritten"):
        store_intervals(tmp_path / "best.pth", out, "key", {"a": 2})
    assert out.read_bytes() == content
    assert sorted(each.name for each in tmp_path.iterdir()) == ["best.pth", "out.pth"]
    assert torch.load(out, weights_only=True)["meta"] == {"key": {"a": 1}}


def test_too_few_images_for_bounds_by_image(oracle, tmp_path):
    with pytest.raises(ValueError, match=r"\d+ images have a detection .* leave --by-image out"):
        calibrate(
            oracle / "calibration.py",
            oracle / "best.pth",
            out=tmp_path / "a.pth",
            level=0.995,
            by_image=True,
        )
    assert not list(tmp_path.iterdir())


def test_a_part_of_another_process_is_not_read(oracle, tmp_path):
    cfg = Config.fromfile(oracle / "calibration.py")
    model = load_detector(cfg, oracle / "best.pth")
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    expected = matched_sides(model, dataset, 0.8)
    foreign = dict(first=7, images=50, spread="std", rows=[])
    torch.save(foreign, tmp_path / "part_00000.pth")
    found = matched_sides(model, dataset, 0.8, folder=tmp_path)
    assert torch.equal(found.residual, expected.residual)
    assert torch.equal(matched_sides(model, dataset, 0.8, folder=tmp_path).image, expected.image)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A user's folder with a refined detector that is not trained."""
    folder = make_project(tmp_path_factory.mktemp("user") / "my work", ONE_STAGE)
    cfg = add_energy_head(Config.fromfile(folder / "my_detector.py"), folder / "epoch_12.pth")
    cfg.model.refiner = dict(type="ImportanceMeanRefiner", prior=dict(std=0.1), num_samples=16)
    cfg.custom_imports = dict(imports=["ebm_mmdet"], allow_failed_imports=False)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = str(folder / "data")
    cfg.dump(folder / "ebm.py")
    init_default_scope("mmdet")
    model = load_detector(cfg, None)
    meta = dict(dataset_meta=dict(classes=("ape", "bat", "cat")))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / "best.pth")
    truth = json.loads((folder / "data" / "boxes.json").read_text())
    for image in truth["images"]:  # a large object of every class in each
        truth["annotations"] += [
            dict(
                id=100 * image["id"] + k,
                image_id=image["id"],
                category_id=k,
                bbox=[2, 2, 80, 50],
                area=4000,
                iscrowd=0,
            )
            for k in (10, 20, 30)
        ]
    (folder / "val set.json").write_text(json.dumps(truth))
    return folder


def test_the_commands(project, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(project)
    call = ["calibrate", "ebm.py", "best.pth", "--device", "cpu", "--images", "data"]
    call += ["--level", "0.5", "--score-thr", "0", "--iou-thr", "0.01"]
    assert main([*call, "--ann", "data/boxes.json"]) == 1
    assert "is what the config trains on" in capsys.readouterr().err
    # Nor is it taken without being named, where the config tests on it.
    assert main([each for each in call if each not in ("--images", "data")]) == 1
    assert "is what the config trains on" in capsys.readouterr().err
    content = json.loads((project / "val set.json").read_text())
    images_only = tmp_path / "images only.json"
    images_only.write_text(json.dumps({**content, "annotations": []}))
    assert main([*call, "--ann", str(images_only)]) == 1
    assert re.search(r"images only\.json has \d images and no annotated", capsys.readouterr().err)
    assert main([*call, "--ann", "val set.json"]) == 0
    assert "bounds of all, in units of 'std'" in capsys.readouterr().out
    assert main([*call, "--ann", "val set.json"]) == 1
    assert "best_intervals.pth exists" in capsys.readouterr().err
    predict = ["predict", "ebm.py", "best_intervals.pth", "data", "--device", "cpu"]
    out = tmp_path / "out put"
    assert main([*predict, "--no-pictures", "--out-dir", str(out)]) == 0
    content = COCO(out / "coco.json")
    assert len(content.dataset["annotations"]) == 15
    for each in content.dataset["annotations"]:
        x, y, w, h = each["bbox"]
        for value, (low, high) in zip((x, y, x + w, y + h), each["side_interval"]):
            assert low - 2e-3 <= value <= high + 2e-3
            assert high > low
    assert main([*predict, "--no-pictures", "--no-refine", "--out-dir", str(out / "b")]) == 0
    plain = json.loads((out / "b" / "coco.json").read_text())
    assert all("side_interval" not in each for each in plain["annotations"])


def test_other_settings_of_the_model_are_said(project):
    weights = project / "best_intervals.pth"
    if not weights.exists():
        calibrate(
            project / "ebm.py",
            project / "best.pth",
            project / "val set.json",
            project / "data",
            level=0.5,
            score_thr=0.0,
            iou_thr=0.01,
        )
    cfg = Config.fromfile(project / "ebm.py")
    digest = model_digest(cfg)
    load_detector(cfg, weights)
    EBMInferencer(cfg, weights, "cpu", show_progress=False)
    cfg.model.refiner.num_samples = 32
    with pytest.warns(UserWarning, match="calibrated with other settings"):
        load_detector(cfg, weights)
    with pytest.warns(UserWarning, match="calibrated with other settings"):
        EBMInferencer(cfg, weights, "cpu", show_progress=False)
    # tools/test.py, also with test-time augmentation, where the model is in a wrapper.
    model = load_detector(cfg, None)
    runner = SimpleNamespace(model=torch.nn.Module())
    runner.model.module = model
    hook = StoredIntervalsHook(digest)
    hook.after_load_checkpoint(runner, torch.load(weights, weights_only=True))
    assert model.side_intervals.level == 0.5


def test_an_interval_that_is_not_finite_is_null_in_the_file():
    from ebm_mmdet.apis.coco_results import coco_results

    found = dict(bboxes=[[0, 0, 1, 1]], scores=[1.0], labels=[0])
    found["side_interval"] = [[[-math.inf, math.inf], [0.0, 1.00049], [0, 1], [0, 1]]]
    (result,) = coco_results([found], [1], [1])
    assert result["side_interval"][:2] == [[None, None], [0.0, 1.0]]
    assert "Infinity" not in json.dumps(result)
