"""Residuals on which priors are measured: truth minus detection."""

from __future__ import annotations

import torch
from mmdet.structures import DetDataSample

from ebm_mmdet.apis.fitting.data import FitData
from ebm_mmdet.apis.fitting.image_set import ImageSet
from ebm_mmdet.apis.fitting.residuals import measure_residuals
from ebm_mmdet.models.box_coding import encode_boxes
from tests.ebm_mmdet.apis.fitting.known_objects import FACTS, TRUTH, Given, Seen, detected


def test_residuals_are_truth_minus_detection_and_kept(model, tmp_path, clock):
    seen = []

    def some(item):
        seen.append(item)
        image = detected(item)
        if item == 0:
            image.sample.pred_instances.bboxes[0, 2] = float("inf")
        return image

    kind, rest = Seen(some), ImageSet(Given(), [5, 6, 7])
    data = FitData(None, [5, 6, 6, 7], tune=ImageSet(Given(), [0, 1]), **FACTS | dict(rest=rest))
    path = tmp_path / "residuals.json"
    found = measure_residuals(kind, model, data, path, 1e9, clock, 0)
    assert seen[:2] in ([0, 1], [1, 0])  # those to tune on are looked at first
    assert sorted(seen[2:]) == [5, 6, 7]
    assert found.shape == (9, 4)
    assert found.isfinite().all()
    expected = torch.cat(
        [encode_boxes(TRUTH[i], detected(i).sample.pred_instances.bboxes) for i in seen]
    )
    kept = [row for row in range(10) if row != 2 * seen.index(0)]
    torch.testing.assert_close(found, expected[kept], atol=1e-4, rtol=0)
    again = measure_residuals(kind, model, data, path, 1e9, clock, 0)
    assert len(seen) == 5
    torch.testing.assert_close(again, found, atol=1e-6, rtol=0)

    short = measure_residuals(kind, model, data, tmp_path / "short.json", 0.0, clock, 0)
    assert len(short) in (1, 2)  # one image, whatever the time


def test_a_detector_without_boxes_has_no_residuals(model, tmp_path, clock):
    def nothing(item):
        image = detected(item)
        return image._replace(sample=DetDataSample(pred_instances=image.sample.pred_instances[:0]))

    kind = Seen(nothing)
    data = FitData(None, [5], tune=ImageSet(Given(), [0]), **FACTS)
    for _ in range(2):
        found = measure_residuals(kind, model, data, tmp_path / "none.json", 1e9, clock, 0)
        assert found.shape == (0, 4)


def test_low_scores_count_where_there_are_few_others(model, tmp_path, clock):
    def unsure(item):
        image = detected(item)
        image.sample.pred_instances.scores *= 0.2
        return image

    kind = Seen(unsure)
    data = FitData(None, [], tune=ImageSet(Given(), range(4)), **FACTS)
    assert len(measure_residuals(kind, model, data, tmp_path / "a.json", 1e9, clock, 0)) == 8
