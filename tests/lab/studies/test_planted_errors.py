"""Planted errors are what they are called, and the measures are those of scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ebm_mmdet.box_iou import box_iou
from ebm_mmdet.datasets import write_coco
from lab.studies.planted_errors import KINDS, auroc, average_precision, plant, ranking


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = write_coco(tmp_path_factory.mktemp("shapes"), "val", 60, 5, image_size=(128, 128))
    return json.loads(path.read_text())


def boxes(rows):
    x = np.array([row["bbox"] for row in rows], float)
    return np.concatenate([x[:, :2], x[:, :2] + x[:, 2:]], 1)


def test_each_kind_is_what_it_is_called(content):
    new, kinds, truth = plant(content, KINDS, 0.4, 0)
    made = boxes(new["annotations"])
    true = np.array([truth[k] for k in range(len(made))])
    iou = box_iou(made, true)
    good = np.array([k not in kinds for k in range(len(made))])
    assert iou[good].mean() > 0.93
    assert set(kinds.values()) == set(KINDS)
    size = true[:, 2:] - true[:, :2]
    for k, kind in kinds.items():
        off = np.abs(made[k] - true[k]) / np.tile(size[k], 2)
        if kind == "side":
            assert (off > 0.02).sum() <= 4
            assert off.max() < 0.25
        if kind == "merged":  # it holds the true box, but for the honest annotator's error
            inside = made[k] - true[k]
            assert (inside[:2] <= 0.1 * size[k]).all()
            assert (inside[2:] >= -0.1 * size[k]).all()
    removed = len(content["annotations"]) - len(made)
    assert removed == sum(kind == "merged" for kind in kinds.values())


def test_a_seed_gives_the_same_again_and_the_truth_is_kept(content):
    before = json.dumps(content)
    assert plant(content, KINDS, 0.2, 1) == plant(content, KINDS, 0.2, 1)
    assert plant(content, KINDS, 0.2, 1)[0] != plant(content, KINDS, 0.2, 2)[0]
    assert json.dumps(content) == before


def test_small_jitters_count_as_neither(content):
    new, kinds, truth = plant(content, ["jitter"], 0.5, 0)
    made = boxes(new["annotations"])
    for k, kind in kinds.items():
        iou = float(box_iou(made[k], np.array(truth[k])))
        assert iou == pytest.approx(0.8, abs=1e-6) or (iou >= 0.8) == (kind == "unclear")


def test_measures_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    score, bad = rng.random(400).round(1), rng.random(400) < 0.2
    assert auroc(score, bad) == pytest.approx(metrics.roc_auc_score(bad, score))
    expected = metrics.average_precision_score(bad, score)
    assert average_precision(score, bad) == pytest.approx(expected)


def test_ranking_leaves_out_what_is_unclear_and_other_kinds():
    kind = ["", "", "side", "unclear", "merged"]
    table = ranking(np.array([0.1, 0.2, 0.15, 9.0, 5.0]), kind)
    assert table["merged"] == (1.0, 1.0)
    assert table["side"][0] == 0.5
    assert table["all"][0] == 0.75
