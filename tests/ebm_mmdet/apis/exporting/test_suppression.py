"""Suppression in fixed shapes gives what mmcv's NMS and EnergyGuidedNMS give."""

from __future__ import annotations

import pytest
import torch
from mmcv.ops import batched_nms
from mmengine.structures import InstanceData

from ebm_mmdet.apis.exporting.suppression import Candidates, best, by_energy, by_scores
from ebm_mmdet.models import EnergyGuidedNMS

NUM, EMPTY = 60, 12


def candidates(seed: int) -> Candidates:
    """Crowded boxes of three classes, a few without area, and some empty places."""
    g = torch.Generator().manual_seed(seed)
    centre, size = torch.rand(NUM, 2, generator=g) * 40, torch.rand(NUM, 2, generator=g) * 20 + 5
    size[:3, 0] = 0
    boxes = torch.cat([centre - size / 2, centre + size / 2], 1)
    scores = torch.rand(NUM, generator=g)
    scores[torch.randperm(NUM, generator=g)[:EMPTY]] = -1
    return Candidates(boxes, scores, torch.randint(3, (NUM,), generator=g))


def existing(found: Candidates) -> list[torch.Tensor]:
    """Without empty places, which come last."""
    exist = found.exist
    assert (exist == exist.sort(descending=True).values).all()
    return [each[exist] for each in found]


@pytest.mark.parametrize("count", [5, NUM])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_by_scores_is_mmcvs(class_agnostic, count):
    given = candidates(0)
    boxes, scores, labels = (each[given.exist] for each in given)
    cfg = dict(type="nms", iou_threshold=0.4, class_agnostic=class_agnostic)
    dets, kept = batched_nms(boxes, scores, labels, cfg)
    found = existing(by_scores(given, 0.4, class_agnostic, count))
    assert count > len(kept) or count == len(found[1])
    for one, other in zip(found, (dets[:, :4], dets[:, 4], labels[kept])):
        assert torch.equal(one, other[:count])


@pytest.mark.parametrize("count", [5, NUM])
def test_by_energy_is_that_of_energy_guided_nms(count):
    given = candidates(1)
    f = torch.randn(NUM, generator=torch.Generator().manual_seed(2))
    f[given.exist.nonzero()[:2, 0]] = torch.tensor([-torch.inf, torch.nan])
    boxes, scores, labels = (each[given.exist] for each in given)
    nms = EnergyGuidedNMS(iou_threshold=0.4, max_per_img=count)
    wanted = nms(InstanceData(bboxes=boxes, scores=scores, labels=labels), f[given.exist])
    found = existing(by_energy(given, f, 0.4, count))
    for one, other in zip(found, (wanted.bboxes, wanted.scores, wanted.labels)):
        assert torch.equal(one, other)


def test_nothing_is_left_of_nothing():
    given = candidates(3).keep(torch.zeros(NUM, dtype=torch.bool))
    for found in (
        by_scores(given, 0.4, False, 5),
        by_energy(given, torch.zeros(NUM), 0.4, 5),
        best(given, 5),
    ):
        assert found.scores.shape == (5,)
        assert not found.exist.any()
