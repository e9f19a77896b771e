"""The lines that fit_residual_prior.py prints, and its messages where there is nothing to fit."""

from __future__ import annotations

import importlib.util
import re
import sys

import pytest
import torch
from mmdet.registry import TASK_UTILS

from tests.tools.tools_support import REPO

CONFIG = str(REPO / "configs" / "nuclei" / "yolox_nano_nuclei_nceplus.py")


@pytest.fixture
def fit(monkeypatch):
    """Runs the tool with given residuals in the place of a detector's."""
    path = REPO / "tools" / "analysis_tools" / "fit_residual_prior.py"
    spec = importlib.util.spec_from_file_location("fit_residual_prior", path)
    tool = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, tool)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(tool, "load_frozen_detector", lambda cfg: None)
    monkeypatch.setattr(tool, "use_checked_annotations", lambda: None)
    monkeypatch.setattr(tool.DATASETS, "build", lambda cfg: [None] * 7)

    def run(residuals, *options):
        monkeypatch.setattr(tool, "detector_residuals", lambda *_: residuals)
        return tool.main([CONFIG, *options])

    return run


@pytest.mark.parametrize("size", [1.0, 1e-2, 2e-5, 1e-9])
def test_three_digits_of_every_number_whatever_its_size(fit, size):
    generator = torch.Generator().manual_seed(0)
    residuals = torch.randn(50, 4, generator=generator) * torch.tensor([size, 0.01, 0.01, 0.3])
    for line in fit(residuals):
        settings = eval(f"dict({line})", {"dict": dict})
        prior = TASK_UTILS.build(dict(type="GradientAscentRefiner", **settings)).prior
        centre = torch.tensor(prior.bias)
        expected = (residuals - centre).square().mean(0).sqrt()
        torch.testing.assert_close(torch.tensor(prior.std), expected, rtol=6e-3, atol=0)
    torch.testing.assert_close(centre, residuals.median(0).values, rtol=6e-3, atol=0)


@pytest.mark.parametrize(
    ("residuals", "options", "message"),
    [
        (torch.zeros(0, 4), [], "0 detections with a score of 0.3 or more match"),
        (
            torch.ones(1, 4),
            ["--iou-thr", "0.7"],
            "1 detections .* IoU of 0.7, on 7 images; .* 2 at",
        ),
        (torch.zeros(5, 4), [], "prior is not needed. Give images that"),
        (torch.ones(5, 4), [], "prior is not needed. Give images that"),
        (torch.randn(5, 4), ["--k", "-1"], "--k -1.0; give a positive number"),
        (torch.randn(5, 4), ["--k", "nan"], "--k nan; give a positive number"),
    ],
    ids=["none", "one", "exact", "alike", "negative", "nan"],
)
def test_what_cannot_be_fitted_is_said(fit, residuals, options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        fit(residuals, *options)
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)
