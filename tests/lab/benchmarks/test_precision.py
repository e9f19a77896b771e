"""What a climb as a CUDA graph costs in AP: the rows of the table, on a tiny head."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ebm_mmdet.energy import evaluate_only, with_gaussian_prior
from ebm_mmdet.models import GradientAscentRefiner
from lab.benchmarks._emulated_graph import fixed_climb, rounded_climb, rounded_log_density
from tests.ebm_mmdet.models.fused_climb.test_recorded_loop import CONCAT, function, make_head

REPO = Path(__file__).resolve().parents[3]
Y0 = torch.zeros(5, 4)


@pytest.fixture
def precision(monkeypatch):
    """The command as a module; it imports others from its folder."""
    monkeypatch.syspath_prepend(str(REPO / "tools/lab/benchmarks"))
    from lab.benchmarks import precision

    return precision


def test_as_recorded_boxes_are_those_of_the_loop():
    fn = function(make_head(**CONCAT, regression={}))
    own = GradientAscentRefiner((0.02, 0.03, 0.05, 0.04), num_steps=4, regression_steps=1)
    expected, found = own(fn, Y0), fixed_climb(own)(fn, Y0)
    torch.testing.assert_close(found.y, expected.y, rtol=0, atol=1e-5)
    assert torch.equal(found.accepted, expected.accepted)
    with pytest.raises(ValueError, match="cannot be recorded: the head is in train mode"):
        fixed_climb(own)(function(make_head(**CONCAT, regression={}).train()), Y0)


@pytest.mark.parametrize(("name", "digits"), [("tf32", 10), ("bf16x2", 7)])
@pytest.mark.parametrize("prior", [False, True])
def test_rounding_is_that_of_the_precision(name, digits, prior):
    """And leaves the head as it was."""
    head = make_head(**CONCAT)
    fn = function(head)
    if prior:
        fn = with_gaussian_prior(fn, torch.zeros(4), torch.full((4,), 0.2), temperature=0.5)
    y = 0.05 * torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    layers = list(head.trunk)
    exact, rounded = fn(y), rounded_log_density(fn, name)(y)
    error = (rounded - exact).abs().max() / exact.abs().max()
    assert 2.0 ** -(digits + 6) < error < 2.0 ** -(digits - 2)
    assert list(head.trunk) == layers
    assert torch.equal(fn(y), exact)


def test_a_rounded_climb_gains_nearly_as_much():
    fn = function(make_head(**CONCAT))
    own = GradientAscentRefiner(2e-3, num_steps=4)
    for name in ("tf32", "bf16x2"):
        with torch.inference_mode():  # as the table is made
            expected, found = own(fn, Y0), rounded_climb(own, name)(fn, Y0)
        start, end = (fn(y.unsqueeze(1)).mean() for y in (Y0, found.y))
        assert (end - start) / (expected.log_density.mean() - start) > 0.95
        assert not torch.equal(found.y, expected.y)


def test_the_table_has_a_row_for_each_way(precision, capsys):
    with pytest.raises(TypeError, match="choose a config with a GradientAscentRefiner"):
        precision.make_refiners(evaluate_only)
    names = list(precision.make_refiners(GradientAscentRefiner(1e-3)))
    assert names == ["not refined", "fp32, loop", "fp32, as recorded", "tf32", "bf16x2"]
    values = precision._shown({"bbox_mAP": 0.5, "bbox_mIoU_TP": 0.75})
    assert (values["AP"], values["mean IoU"]) == (50, 0.75)
    precision.print_table([precision.Row("tf32", values, 0.875, 0.25)])
    said = capsys.readouterr().out
    for text in ("50.00", "0.7500", "nan", "87.5 %", "0.250"):
        assert text in said
    instances = SimpleNamespace(bboxes=torch.eye(4)[:2], scores=torch.tensor([0.2, 0.3]))
    assert len(precision._confident(instances)) == 1
