"""The study of two conventions: its likelihoods and shares on known objects, and its picture."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData

from ebm_mmdet.apis.feature_cache import TestImage
from ebm_mmdet.apis.fitting.rivals import RegressionStep
from ebm_mmdet.models import decode_boxes
from lab.pictures import draw_two_hills
from lab.studies.convention_objects import SeenObject, likelihoods, mode_shares, seen_objects
from lab.studies.conventions import KINDS, _methods, conventions_page
from lab.studies.heads import REGRESSORS
from tests.lab.demo.miniature import CONFIGS

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
        {"l1": np.array(regressed), "l2": 0.5 * np.array(regressed)},
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
    assert found["l2"] == pytest.approx(entropy + 4 * math.log(0.75), abs=0.1)
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


def test_each_regression_head_is_a_row_with_its_own_loss_and_likelihood():
    cfg = Config.fromfile(CONFIGS / "two_conventions_nceplus.py")
    rows = {method.name: method for method in _methods(cfg)}
    assert list(rows) == [
        "detector",
        *("L1 head", "L2 head"),
        *("energy head, 1 start", "energy head, 8 starts"),
    ]
    for name, distance in KINDS.items():
        head = REGRESSORS[rows[name].head](cfg.model.energy_head)
        assert head.distance == distance
        step = rows[name].refiner(head)
        assert isinstance(step, RegressionStep)
        assert (step.regressor, step.length, step.rounds) == (head, 1.0, 1)

    values = dict(detector=4.0, l1=3.0, l2=2.0, energy=1.0)
    metrics = {"AP": 10.0, "AP50": 10.0, "AP75": 10.0, "AP90": 10.0}
    line = dict(**metrics, **{f"change_{key}": None for key in metrics}, IoU_TP=1.0)
    page = conventions_page(
        dict(
            settings=dict(seeds=[0], resamples=2),
            rows=[dict(line, method=name, seed_std_AP75=None) for name in rows],
            nll=[values],
            modes=[dict(one=1.0, both=1.0, mass=1.0, with_handle=1.0)],
            **dict(images=1, objects=1, seen=1),
        )
    )
    for name, shown in (("detector", 4), ("L1 head", 3), ("L2 head", 2), ("energy head, 8", 1)):
        (row,) = [each for each in page.split("\n") if each.startswith(f"| {name}")]
        assert row.endswith(f"| {shown}.00 |")


def test_every_head_is_asked_about_the_objects_that_a_detection_matches():
    cfg = Config.fromfile(CONFIGS / "two_conventions_nceplus.py").model
    torch.manual_seed(0)
    head = {**cfg.energy_head, "in_channels": 4, "fc_channels": [8]}
    energy = MODELS.build(head).eval()
    heads = {kind: REGRESSORS[kind](head).eval() for kind in KINDS.values()}
    neck = tuple(torch.randn(1, 4, 96 // stride, 96 // stride) for stride in head["strides"])
    body, whole = [10.0, 10, 20, 20], [10.0, 10, 38, 20]
    sample = DetDataSample(metainfo=dict(img_id=7, ori_shape=(96, 96), scale_factor=(1.0, 1.0)))
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([[50.0, 50, 60, 60], [11.0, 10, 31, 30], [10.0, 10, 30, 30]]),
        scores=torch.tensor([0.9, 0.8, 0.2]),  # of nothing, of the object, too low
        labels=torch.zeros(3, dtype=torch.long),
    )
    annotation = dict(bbox=whole, conventions=[body, whole], category_id=1)
    truth = SimpleNamespace(imgToAnns={7: [annotation]})
    image = TestImage(neck, sample, None, 0.0)
    refiner = TASK_UTILS.build({**cfg.refiner, "num_steps": 1})
    (found,) = seen_objects([image], truth, [1], energy, heads, refiner, points=5)
    assert found.detected.tolist() == [11, 10, 31, 30]
    np.testing.assert_allclose(found.conventions, [BODY, WHOLE])
    reference = torch.tensor(found.detected)[None]
    whole_box = decode_boxes(torch.tensor(found.target)[None], reference)[0]
    np.testing.assert_allclose(whole_box, WHOLE, rtol=1e-5)
    assert (found.modes.shape, found.mass.shape) == ((3, 4), (3,))
    assert found.slice_side == 2  # the right one
    assert found.slice_at.shape == found.slice_f.shape == (5,)
    assert list(found.regressed) == ["l1", "l2"]
    for kind, answer in found.regressed.items():
        index = torch.zeros(1, dtype=torch.long)
        expected = heads[kind].offsets(heads[kind].prepare(neck), reference, index)[0]
        np.testing.assert_allclose(answer, expected.detach(), rtol=1e-5)
