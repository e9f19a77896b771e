"""The study of intervals, on detections whose errors are known."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet, which `make test` installs")

from ebm_mmdet.apis import MatchedSides
from lab.studies.intervals import interval_table, random_halves


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
