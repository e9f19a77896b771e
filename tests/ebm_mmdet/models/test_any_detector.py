"""EBMDetector around detectors of every kind: what they do otherwise than most."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import ConfigDict

from tests.ebm_mmdet.models.any_detector import make, predict, small, wrapped
from tests.ebm_mmdet.models.toys import batch, build, detector_cfg, ebm_cfg


def soft_teacher(**test_cfg) -> dict:
    detector = detector_cfg("faster_rcnn")
    preprocessor = detector.pop("data_preprocessor")
    return dict(
        type="SoftTeacher",
        detector=dict(detector, data_preprocessor=preprocessor),
        data_preprocessor=dict(type="MultiBranchDataPreprocessor", data_preprocessor=preprocessor),
        semi_train_cfg=dict(freeze_teacher=True),
        semi_test_cfg=dict(predict_on="teacher", **test_cfg),
    )


def test_a_semi_supervised_detector_predicts_and_trains():
    """SoftTeacher: its ``predict`` has no rescale, its neck is in the teacher."""
    model = build(wrapped(soft_teacher()))
    assert model.feature_sources == ("teacher.neck",)
    found = {}
    for rescale in (True, False):
        data = batch(model)
        for sample in data["data_samples"]:
            sample.set_metainfo(dict(scale_factor=(2.0, 0.5)))
        found[rescale] = predict(model, data, rescale=rescale)
    for a, b in zip(found[True], found[False]):
        assert len(a.pred_instances)
        boxes = a.pred_instances.bboxes * torch.tensor([2.0, 0.5, 2.0, 0.5])
        torch.testing.assert_close(boxes, b.pred_instances.bboxes, rtol=1e-3, atol=1e-2)
    data = batch(model.train(), training=True)
    assert model.loss(data["inputs"], data["data_samples"])["loss_energy"] > 0


@pytest.mark.parametrize("kind", ["panoptic_fpn", "maskformer"])
def test_detectors_without_instances_are_refused_when_the_wrapper_is_built(kind):
    path = {
        "panoptic_fpn": "panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py",
        "maskformer": "maskformer/maskformer_r50_ms-16xb1-75e_coco.py",
    }[kind]
    cfg = small(path)
    if kind == "maskformer":
        cfg.panoptic_head.in_channels = [8, 16, 32, 64]
    with pytest.raises(ValueError, match="predicts a panoptic map and no pred_instances"):
        make(wrapped(cfg))


def test_an_unknown_detector_without_instances_is_named_when_it_predicts(monkeypatch):
    model = build(wrapped(detector_cfg("retinanet")))
    monkeypatch.setattr(model.detector, "predict", lambda inputs, samples, rescale: samples)
    with pytest.raises(ValueError, match="RetinaNet predicts .* and no pred_instances"):
        predict(model, batch(model))


def test_boxes_of_zeros_are_announced(log):
    make(wrapped(small("solo/decoupled-solo-light_r50_fpn_3x_coco.py")))
    assert any("its boxes are zeros, which no refinement moves" in line for line in log)


def crowddet() -> ConfigDict:
    cfg = small("crowddet/crowddet-rcnn_r50_fpn_8xb2-30e_crowdhuman.py")
    cfg.data_preprocessor.batch_augments = None
    cfg.neck.out_channels = 16
    cfg.rpn_head.update(in_channels=16, feat_channels=16)
    cfg.roi_head.bbox_roi_extractor.out_channels = 16
    cfg.roi_head.bbox_roi_extractor.roi_layer.pop("use_torchvision")
    cfg.roi_head.bbox_head.update(in_channels=16, fc_out_channels=32)
    cfg.test_cfg.rpn.update(max_per_img=20)
    cfg.test_cfg.rcnn.update(score_thr=0.0)
    return cfg


@pytest.mark.parametrize("candidates", [None, dict(type="EnergyGuidedNMS", score_thr=0.0)])
def test_labels_that_are_floats_become_integers(candidates):
    """CrowdDet's labels are zeros of the type of its scores, and its NMS cannot be left out."""
    model = build(wrapped(crowddet(), candidates=candidates))
    (found,) = predict(model, batch(model, num_items=(2,)))
    assert len(found.pred_instances) > 0
    assert found.pred_instances.labels.dtype == torch.int64
    torch.zeros(len(found.pred_instances), 1).gather(1, found.pred_instances.labels[:, None])


def unclipped(model):
    """The predictions of the model's detector, as one that does not clip would make them."""
    inner = model.detector.predict

    def predict_unclipped(inputs, samples, rescale):
        samples = inner(inputs, samples, rescale=rescale)
        for sample in samples:
            boxes = sample.pred_instances.bboxes
            boxes[0] = torch.tensor([-40.0, -30.0, 400.0, 300.0])
            boxes[1] = torch.tensor([-1e5, -1e5, -9e4, -9e4])  # no features: f has no gradient
        return samples

    model.detector.predict = predict_unclipped
    return predict_unclipped(*batch(model).values(), rescale=True)


@pytest.mark.parametrize("refiner", [None, dict(type="GradientAscentRefiner", step_size=0.5)])
def test_a_box_that_does_not_move_keeps_every_bit_outside_the_image_too(refiner):
    model = build(ebm_cfg("fcos", refiner=refiner))
    plain, found, moved = unclipped(model), predict(model, batch(model)), False
    for before, after in zip(plain, found):
        same = after.pred_instances.accepted_steps == 0
        assert same[1]
        boxes, expected = after.pred_instances.bboxes, before.pred_instances.bboxes
        assert torch.equal(boxes[same], expected[same])
        moved |= bool((~same).any())
        # A box that moved leaves the image no further than the detected one.
        limit = torch.tensor([160.0, 128.0, 160.0, 128.0])
        assert (boxes >= expected.clamp(max=0) - 1e-4).all()
        assert (boxes <= torch.maximum(expected, limit) + 1e-4).all()
    assert moved == (refiner is not None)


@pytest.mark.parametrize("refiner", [None, dict(type="GradientAscentRefiner", step_size=0.5)])
def test_every_box_is_clipped_by_a_switch(refiner):
    model = build(ebm_cfg("fcos", refiner=refiner, clip_boxes="all"))
    unclipped(model)
    limit = torch.tensor([160.0, 128.0, 160.0, 128.0])
    for sample in predict(model, batch(model)):
        assert (sample.pred_instances.bboxes >= 0).all()
        assert (sample.pred_instances.bboxes <= limit).all()
    with pytest.raises(ValueError, match="clip_boxes='some'; use True, False or 'all'"):
        make(ebm_cfg("fcos", clip_boxes="some"))
