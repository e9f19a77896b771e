"""`modes` and `mode_mass` of detections: pixels, flips, images without boxes, JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from ebm_mmdet.apis import EBMInferencer
from ebm_mmdet.models.test_time_augs.ebm_tta_model import flip_back
from tests.ebm_mmdet.models.toys import batch, build, ebm_cfg

REFINER = dict(
    type="GradientAscentRefiner",
    step_size=1e-2,
    num_steps=4,
    num_starts=4,
    start_std=0.4,
    num_modes=3,
    num_samples=16,
)


def predicted(model, rescale=True):
    data = batch(model)
    for sample in data["data_samples"]:
        sample.set_metainfo(dict(scale_factor=(2.0, 1.6), ori_shape=(80, 80)))
    with torch.no_grad():
        samples = model.predict(*data.values(), rescale=rescale)
    return [sample.pred_instances for sample in samples]


@pytest.fixture(scope="module")
def model():
    model = build(ebm_cfg("retinanet", refiner=REFINER))
    model.detector.test_cfg.max_per_img = 12
    model.detector.bbox_head.test_cfg.max_per_img = 12
    return model


def test_the_first_mode_is_the_box_and_masses_sum_to_one(model):
    for found in predicted(model):
        assert found.modes.shape == (len(found), 3, 4)
        assert torch.equal(found.modes[:, 0], found.bboxes)
        exists = found.modes.isfinite().all(2)
        assert torch.equal(exists, found.mode_mass.isfinite())
        assert exists[:, 0].all()
        assert exists[:, 1].any()
        torch.testing.assert_close(found.mode_mass.nansum(1), torch.ones(len(found)))
        some = found[:2]
        assert some.modes.shape == (2, 3, 4)


def test_modes_are_in_the_pixels_of_the_boxes(model):
    scale = torch.tensor([2.0, 1.6, 2.0, 1.6])
    pairs = zip(predicted(model, True), predicted(model, False))
    for scaled, plain in pairs:
        torch.testing.assert_close(
            scaled.modes * scale, plain.modes, rtol=1e-4, atol=0.01, equal_nan=True
        )


def test_with_weights_in_half_precision_they_are_float32():
    model = build(ebm_cfg("retinanet", refiner=REFINER))
    model.energy_head.bfloat16()
    for found in predicted(model):
        assert found.modes.dtype == found.mode_mass.dtype == torch.float32
        torch.testing.assert_close(found.mode_mass.nansum(1), torch.ones(len(found)))


def test_boxes_that_are_not_refined_have_one_mode_of_unknown_mass():
    model = build(ebm_cfg("retinanet", refiner=REFINER))
    everything = torch.cat([found.scores for found in predicted(model)])
    model.min_score = float(everything.quantile(0.9))
    for found in predicted(model):
        low = found.scores < model.min_score
        assert torch.equal(found.modes[low][:, 0], found.bboxes[low])
        assert torch.isnan(found.modes[low][:, 1:]).all()
        assert torch.isnan(found.mode_mass[low]).all()
        assert found.mode_mass[~low][:, 0].isfinite().all()


def test_no_detections():
    model = build(ebm_cfg("retinanet", refiner=REFINER))
    model.detector.bbox_head.test_cfg.score_thr = 2.0
    for found in predicted(model):
        assert found.modes.shape == (0, 3, 4)
        assert found.mode_mass.shape == (0, 3)


@pytest.mark.parametrize("direction", ["horizontal", "vertical", "diagonal"])
def test_modes_are_flipped_back_with_their_box(direction):
    boxes = torch.tensor([[10.0, 20, 50, 70], [0, 0, 30, 20]])
    modes = torch.stack([boxes, boxes + 5, torch.full_like(boxes, torch.nan)], dim=1)
    instances = InstanceData(bboxes=boxes, modes=modes, mode_mass=torch.rand(2, 3))
    meta = dict(flip=True, flip_direction=direction, ori_shape=(100, 120))
    back = flip_back(instances, meta)
    assert torch.equal(back.modes[:, 0], back.bboxes)
    again = flip_back(back, meta)
    torch.testing.assert_close(again.modes, modes, equal_nan=True)
    assert torch.equal(back.mode_mass, instances.mode_mass)


def test_json_has_the_modes_that_exist():
    boxes = torch.tensor([[10.0, 20, 50, 70], [0, 0, 30, 20]])
    modes = torch.stack([boxes, boxes + 5], dim=1)
    modes[1, 1] = torch.nan
    mass = torch.tensor([[0.75, 0.25], [torch.nan, torch.nan]])
    found = InstanceData(
        bboxes=boxes,
        scores=torch.rand(2),
        labels=torch.zeros(2).long(),
        modes=modes,
        mode_mass=mass,
    )
    sample = DetDataSample(pred_instances=found)
    row = EBMInferencer.pred2dict(object.__new__(EBMInferencer), sample)
    assert row["mode_mass"] == [[0.75, 0.25], [None]]
    assert np.array(row["modes"][0]).shape == (2, 4)
    assert row["modes"][1] == [boxes[1].tolist()]
    json.loads(json.dumps(row, allow_nan=False))
