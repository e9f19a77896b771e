"""The study of two conventions: its likelihoods and shares on known objects, and its picture."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lab.pictures import draw_two_hills
from lab.studies.convention_objects import SeenObject, likelihoods, mode_shares

BODY, WHOLE = np.array([10.0, 10, 30, 30]), np.array([10.0, 10, 48, 30])


def seen(image, target, modes, mass, regressed=(0.0, 0, 0, 0), nll=1.0):
    at = np.linspace(25, 55, 31)
    f = np.logaddexp(-0.5 * (at - 30) ** 2, -0.5 * (at - 48) ** 2)
    filled = np.full((3, 4), np.nan)
    filled[: len(modes)] = modes
    masses = np.full(3, np.nan)
    masses[: len(mass)] = mass
    conventions = np.stack([BODY, WHOLE])
    return SeenObject(
        image,
        conventions,
        (BODY + WHOLE) / 2,
        np.array(target),
        np.array(regressed),
        filled,
        masses,
        nll,
        2,
        at,
        f,
    )


def test_shares_of_the_modes():
    objects = [
        seen(0, [0.0] * 4, [BODY, WHOLE], [0.6, 0.4]),
        seen(1, [0.0] * 4, [WHOLE, BODY + 40], [0.9, 0.1]),
        seen(2, [0.0] * 4, [BODY + 40], [1.0]),
        seen(3, [0.0] * 4, [WHOLE, BODY, BODY + 40], [0.4, 0.4, 0.2]),
    ]
    shares = mode_shares(objects)
    assert shares["one"] == 0.75
    assert shares["both"] == 0.5
    assert shares["mass"] == pytest.approx(0.9)
    assert shares["with_handle"] == pytest.approx((0.4 + 0.5) / 2)


def test_the_likelihood_of_a_box_alone_is_that_of_residuals_of_other_images():
    """Residuals N(m, s²) in both halves: the entropy of that Gaussian, 4 (½ + ½ log 2π s²)."""
    rng = np.random.default_rng(0)
    targets = 0.3 + 0.1 * rng.standard_normal((4000, 4))
    objects = [
        seen(i, target, [BODY], [1.0], regressed=0.5 * target, nll=2.0)
        for i, target in enumerate(targets)
    ]
    found = likelihoods(objects)
    entropy = 4 * (0.5 + 0.5 * math.log(2 * math.pi * 0.1**2))
    assert found["detector"] == pytest.approx(entropy, abs=0.1)
    assert found["l1"] == pytest.approx(entropy - 4 * math.log(2), abs=0.1)
    assert found["energy"] == 2.0


def test_the_picture_has_an_image_and_a_curve_for_each_object():
    image = np.zeros((64, 64, 3), np.uint8)
    objects = [seen(0, [0.0] * 4, [BODY, WHOLE], [0.6, 0.4])] * 2
    figure = draw_two_hills([image] * 2, objects)
    assert len(figure.axes) == 4
    curve = figure.axes[2].lines[0].get_ydata()
    peaks = (curve[1:-1] > curve[:-2]) & (curve[1:-1] > curve[2:])
    assert peaks.sum() == 2
    with pytest.raises(ValueError, match="at least one object"):
        draw_two_hills([], [])
