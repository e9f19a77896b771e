"""Which rows a study has, for each kind of refiner."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet, which `make test` installs")

from mmengine.config import ConfigDict

import ebm_mmdet  # noqa: F401
from lab.studies.methods import KL, L1, PAPERS_STEPS, study_methods

STD, SHIFT = torch.full((4,), 0.1), torch.tensor([0.01, 0.0, 0.02, 0.0])


def rows(**refiner):
    refiner = ConfigDict(type="GradientAscentRefiner", num_steps=10, **refiner)
    return {row.name: row for row in study_methods(refiner, STD, SHIFT, 0.125, ensemble=True)}


def test_short_steps_are_compared_with_the_papers():
    found = rows(step_size=1e-4)
    assert "energy, T = 10, λ = 0.0001" in found
    assert found["energy, the papers' λ"].refiner(None).step_size == PAPERS_STEPS
    assert "energy, the papers' λ" not in rows(step_size=PAPERS_STEPS)


@pytest.mark.parametrize(
    ("std", "name"),
    [
        ("per_box", "energy, the detector's own prior"),
        ([0.2] * 4, "energy, the recipe's own prior"),
    ],
)
def test_a_refiner_with_a_prior_is_a_row_as_it_is(std, name):
    """It has no step size, so there is no other one to compare with."""
    found = rows(prior=dict(std=std, scale=0.5))
    refiner = found[name].refiner(None)
    assert (refiner.prior.std, refiner.prior.scale, refiner.step_size) == (std, 0.5, None)
    assert f"mean of heads: {name}" in found
    fitted = found["energy and prior, k = 0.125"].refiner(None).prior
    assert fitted.std == STD.tolist()
    assert not any("λ" in each for each in found)


def test_regressors_go_one_and_two_rounds():
    found, head = rows(step_size=1e-4), object()
    for name, kind, how in (
        ("L1 head, full step", L1, (1.0, 1)),
        ("L1 head, half step", L1, (0.5, 1)),
        ("L1 head, two full steps", L1, (1.0, 2)),
        ("L1 head, two half steps", L1, (0.5, 2)),
        ("KL-Loss head, half step", KL, (0.5, 1)),
    ):
        step = found[name].refiner(head)
        assert (found[name].head, step.regressor) == (kind, head)
        assert (step.length, step.rounds) == how


def test_a_head_with_a_regression_has_rows_of_its_own():
    refiner = ConfigDict(
        type="GradientAscentRefiner", num_steps=10, step_size=1e-4, regression_steps=1
    )
    found = {
        row.name: row
        for row in study_methods(refiner, STD, SHIFT, 0.125, ensemble=True, regresses=True)
    }
    half = found["regression and f, two half steps"].refiner(None)
    assert (half.num_steps, half.regression_steps, half.regression_length) == (0, 2, 0.5)
    then = found["regression and f, full step, then the climb"].refiner(None)
    assert (then.num_steps, then.regression_steps, then.step_size) == (10, 1, 1e-4)
    assert "energy, 1 x regression, T = 10, λ = 0.0001" in found
    assert "mean of heads: regression and f, half step" in found
    assert not found["energy and prior, k = 0.125"].refiner(None).regression_steps
    assert not any("regression and f" in name for name in rows(step_size=1e-4))


def test_means_over_mirror_images_are_rows_of_their_own():
    refiner = ConfigDict(type="GradientAscentRefiner", num_steps=10, step_size=1e-4)
    flips = ("horizontal", "vertical")
    found = {
        row.name: row
        for row in study_methods(refiner, STD, SHIFT, 0.125, True, regresses=True, flips=flips)
    }
    views = {name: row for name, row in found.items() if row.flips}
    assert all(row.flips == flips for row in views.values())
    assert set(views) == {
        "mean over 3 views: L1 head, full step",
        "mean over 3 views: L1 head, half step",
        "mean over 3 views: regression and f, full step",
        "mean over 3 views: energy, T = 10, λ = 0.0001",
        "mean of heads: mean over 3 views: energy, T = 10, λ = 0.0001",
    }
    assert views["mean over 3 views: L1 head, half step"].head == L1
    assert not any(row.flips for row in rows(step_size=1e-4).values())
