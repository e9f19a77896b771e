"""An interrupted calibration goes on; two at a time do not mix; no file is replaced."""

from __future__ import annotations

import importlib
import re

import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.config import Config

from ebm_mmdet.apis import calibrate, load_detector, matched_sides
from ebm_mmdet.apis.calibration_run import CalibrationRun
from ebm_mmdet.apis.fitting.items import UnreadableItem
from ebm_mmdet.files import write_json

sides_module = importlib.import_module("ebm_mmdet.apis.matched_sides")
"""The package has a function of the same name."""


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
    module = importlib.import_module("ebm_mmdet.apis.unfinished_file")
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
