"""The study of intervals, on detections whose errors are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet, which `make test` installs")

from mmengine.config import Config

from ebm_mmdet.apis import MatchedSides
from ebm_mmdet.apis.fitting.training import HeadTraining
from ebm_mmdet.files import write_json
from lab.studies import interval_boxes
from lab.studies.interval_rivals import Rivals, models_with_heads
from lab.studies.intervals import interval_table, measure_intervals, random_halves
from tests.ebm_mmdet.apis.user_project import ONE_STAGE, make_project


def sides(dependent: bool = False) -> MatchedSides:
    """Six detections in each of 200 images; errors are Gaussian, and half as large as stated."""
    generator = torch.Generator().manual_seed(0)
    number = 1200
    image = torch.arange(number) // 6
    size = torch.where(torch.rand(number, 1, generator=generator) < 0.5, 20.0, 60.0)
    noise = torch.randn(number, 4, generator=generator)
    if dependent:
        noise = torch.randn(200, 4, generator=generator)[image]
    return MatchedSides(
        residual=0.05 * noise,
        spread=torch.full((number, 4, 2), 0.1),
        boxes=torch.cat((torch.zeros(number, 2), size.expand(-1, 2)), dim=1),
        labels=torch.randint(0, 3, (number,), generator=generator),
        image=image,
        kind="std",
    )


def test_independent_errors_are_covered_as_the_theory_says():
    rows = {row["bounds"]: row for row in random_halves(sides(), 3, 0.9, 40)}
    assert rows["Gaussian, ± 1.64 std"]["coverage"] > 0.995  # stated twice too large
    for name in ("one for all", "by class and size", "one for all, by image", "joint"):
        assert rows[name]["coverage"] == pytest.approx(0.9, abs=0.015)
    assert rows["one for all"]["in_band"] > 0.85
    # 2 x 1.645 x 0.05 of 40 px in the mean; the least that can hold.
    assert rows["one for all"]["width"] == pytest.approx(6.6, rel=0.05)
    assert rows["joint"]["width"] > 1.2 * rows["one for all"]["width"]
    table = interval_table(list(rows.values()))
    assert table.count("\n") == 1 + len(rows)
    assert "std, joint" in table


def test_boxes_of_an_image_that_err_together_leave_the_band():
    rows = {row["bounds"]: row for row in random_halves(sides(dependent=True), 3, 0.9, 40)}
    free = {row["bounds"]: row for row in random_halves(sides(), 3, 0.9, 40)}
    one, other = rows["one for all"], free["one for all"]
    assert one["std"] > 1.5 * other["std"]
    assert one["in_band"] < other["in_band"] - 0.1


def test_heads_learn_once_and_each_gives_the_spread_that_it_has(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path / "my work", ONE_STAGE))
    step, steps = HeadTraining._step, []
    monkeypatch.setattr(HeadTraining, "_step", lambda *a: steps.append(1) or step(*a))
    cfg, rivals = Config.fromfile("my_detector.py"), Rivals(Path("heads"), Path("data/boxes.json"))
    rivals = Rivals(rivals.folder, rivals.train_ann, Path("data"), iterations=2)
    with pytest.raises(ValueError, match="0 detections of a score .* match an object of"):
        next(models_with_heads(cfg, "epoch_12.pth", rivals))  # it has not learned anything
    write_json(rivals.folder / "residuals.json", dict(std=[0.05, 0.05, 0.1, 0.1]))
    tried = []

    def some(model, dataset, level, kind):
        if kind == "pixels":
            tried.append((type(model.model.energy_head).__name__, model.model.refiner is None))
        item = dataset[0]
        data = dict(inputs=[item["inputs"]], data_samples=[item["data_samples"]])
        (found,) = model.test_step(data)
        if kind == "std" and "box_cov" not in found.pred_instances:
            raise ValueError("no std")
        return sides()._replace(kind=kind)

    monkeypatch.setattr(interval_boxes, "matched_sides", some)
    lines = []
    rows = measure_intervals(
        "my_detector.py", "epoch_12.pth", splits=2, rivals=rivals, say=lines.append
    )
    assert len(steps) == 2  # of all three heads at once
    names = [*3 * ["EBMBBoxHead"], "KLRegressor", "ProposalEBMBBoxHead"]
    assert [name for name, _ in tried] == names
    assert [without for _, without in tried] == [True, False, False, False, False]
    with_std = {row["boxes"] for row in rows if row["spread"] == "std"}
    assert with_std == {"energy head, 32 samples", "KL-Loss head", "learned proposal"}
    assert "KL-Loss head: std, joint" in lines[-1]
    next(models_with_heads(cfg, "epoch_12.pth", rivals))
    assert len(steps) == 2
    other = Rivals(rivals.folder, rivals.train_ann, iterations=3)
    with pytest.raises(FileExistsError, match="iterations': 2.*name another folder"):
        next(models_with_heads(cfg, "epoch_12.pth", other))
