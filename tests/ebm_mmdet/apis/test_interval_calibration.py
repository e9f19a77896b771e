"""Intervals of a calibration hold on other images, with the bounds of their definition."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.config import Config

from ebm_mmdet.apis import calibrate, fit_intervals, load_detector, matched_sides
from ebm_mmdet.energy import expected_coverage
from tests.ebm_mmdet.apis.noisy_oracle import CLASSES


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
