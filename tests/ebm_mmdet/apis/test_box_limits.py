"""Every limit on the boxes of an image that a config sets, wherever it is."""

from __future__ import annotations

import pytest

pytest.importorskip("mmdet", reason="needs mmdet, which `make test` installs")

from mmengine.config import ConfigDict

from ebm_mmdet.apis.box_limits import box_limits, too_few_boxes

TWO_STAGE = dict(test_cfg=dict(rpn=dict(max_per_img=500), rcnn=dict(max_per_img=100)))
ONE_STAGE = dict(test_cfg=dict(max_per_img=300))
WITHOUT = dict(test_cfg=dict(score_thr=0.01))
CANDIDATES = dict(type="EnergyGuidedNMS", max_per_img=200)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (ONE_STAGE, {"test_cfg": 300}),
        (TWO_STAGE, {"test_cfg.rpn": 500, "test_cfg.rcnn": 100}),
        (WITHOUT, {}),
        (dict(test_cfg=None), {}),
        (dict(), {}),
        (dict(test_cfg=dict(max_per_img=-1)), {}),
        (dict(detector=ONE_STAGE), {"detector.test_cfg": 300}),
        # Inside of two wrappers.
        (dict(detector=dict(detector=ONE_STAGE)), {"detector.detector.test_cfg": 300}),
        (dict(detector=ONE_STAGE, candidates=None), {"detector.test_cfg": 300}),
        # The detector's last suppression is left out.
        (
            dict(detector=TWO_STAGE, candidates=CANDIDATES),
            {"detector.test_cfg.rpn": 500, "candidates": 200},
        ),
        (dict(detector=WITHOUT, candidates=dict(type="EnergyGuidedNMS")), {"candidates": 100}),
    ],
)
def test_limits_of_a_config(model, expected):
    expected = {f"model.{key}.max_per_img": value for key, value in expected.items()}
    assert box_limits(ConfigDict(model)) == expected


def test_limits_below_the_number_of_objects_are_named():
    (line,) = too_few_boxes(TWO_STAGE, 500)
    assert "keeps at most 100 boxes" in line
    assert "up to 500 objects: raise model.test_cfg.rcnn.max_per_img" in line
    assert not too_few_boxes(TWO_STAGE, 100)
    assert len(too_few_boxes(TWO_STAGE, 501)) == 2
    wrapper = dict(detector=ONE_STAGE, candidates=CANDIDATES)
    (line,) = too_few_boxes(wrapper, 201)
    assert "raise model.candidates.max_per_img" in line
