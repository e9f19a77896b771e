"""Masks of detected and of refined boxes, and how many are computed."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from mmdet.registry import TASK_UTILS
from mmengine.config import ConfigDict

from ebm_mmdet.models.masks import predict_masks
from tests.ebm_mmdet.models.any_detector import make, predict, small, wrapped
from tests.ebm_mmdet.models.toys import NUM_CLASSES, batch, build, detector_cfg


def mask_rcnn(path: str = "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py") -> ConfigDict:
    cfg = small(path)
    cfg.neck.out_channels = 16
    cfg.rpn_head.update(in_channels=16, feat_channels=16)
    roi_head = cfg.roi_head
    for extractor in (roi_head.bbox_roi_extractor, roi_head.mask_roi_extractor):
        extractor.out_channels = 16
    roi_head.bbox_head.update(in_channels=16, fc_out_channels=32, num_classes=NUM_CLASSES)
    roi_head.mask_head.update(in_channels=16, conv_out_channels=16, num_classes=NUM_CLASSES)
    cfg.test_cfg.rpn.update(max_per_img=50)
    cfg.test_cfg.rcnn.update(score_thr=0.0, max_per_img=20)
    return cfg


@cache
def mask_model():
    return build(wrapped(mask_rcnn()))


def configured(refiner=None, candidates=None, masks_from="detected"):
    """The model above with other settings, and a list of the numbers of masks it predicts."""
    model, predicted = copy.copy(mask_model()), []
    model.refiner = refiner and TASK_UTILS.build(refiner)
    model.candidates = candidates and TASK_UTILS.build(candidates)
    model.masks_from = masks_from
    forward = type(model.detector.roi_head)._mask_forward

    def counted(x, rois=None, **kwargs):
        predicted.append(len(rois))
        return forward(model.detector.roi_head, x, rois, **kwargs)

    model.detector.roi_head._mask_forward = counted
    return model, predicted


@pytest.mark.parametrize("rescale", [True, False])
def test_masks_are_predicted_after_the_suppression_only(rescale):
    nms = dict(type="EnergyGuidedNMS", score_thr=0.0, max_per_img=5)
    model, predicted = configured(candidates=nms)
    data = batch(model)
    found = predict(model, data, rescale=rescale)
    assert predicted == [sum(len(sample.pred_instances) for sample in found)] == [10]
    # They are those of the survivors' boxes.
    (width, height) = data["data_samples"][0].scale_factor if rescale else (1, 1)
    boxes = [sample.pred_instances[:] for sample in found]
    for each in boxes:
        each.bboxes = each.bboxes * torch.tensor([width, height, width, height]).float()
    with torch.no_grad():
        maps = model.detector.extract_feat(batch(model)["inputs"])
        metainfo = [sample.metainfo for sample in data["data_samples"]]
        again = model.detector.roi_head.predict_mask(maps, metainfo, boxes, rescale=rescale)
    for a, b in zip(found, again):
        assert a.pred_instances.masks.shape == b.masks.shape
        assert (a.pred_instances.masks != b.masks).float().mean() < 1e-3  # rounding at the border


@pytest.mark.parametrize("candidates", [None, dict(type="EnergyGuidedNMS", score_thr=0.2)])
def test_masks_of_refined_boxes_by_a_switch(candidates):
    refiner = dict(type="GradientAscentRefiner", step_size=0.3, num_steps=4)
    before, detected, refined = (
        predict(model, batch(model))
        for model, _ in (
            configured(None, candidates),
            configured(refiner, candidates),
            configured(refiner, candidates, "refined"),
        )
    )
    for base, a, b in zip(before, detected, refined):
        base, a, b = (each.pred_instances for each in (base, a, b))
        assert len(base)
        assert torch.equal(base.masks, a.masks)
        assert torch.equal(a.bboxes, b.bboxes)
        assert torch.equal(a.scores, b.scores)
        assert a.masks.shape == b.masks.shape
        assert not torch.equal(a.masks, b.masks)
        # A mask lies in its box: those of refined boxes lie in the refined ones.
        x = torch.arange(b.masks.shape[2]) + 0.5
        columns = b.masks.any(1)
        outside = columns & ((x < b.bboxes[:, None, 0] - 2) | (x > b.bboxes[:, None, 2] + 2))
        assert not outside.any()


def test_the_log_says_which_boxes_masks_belong_to(log):
    make(wrapped(mask_rcnn()))
    assert any("Masks belong to the detected boxes" in line for line in log)
    make(wrapped(mask_rcnn(), masks_from="refined"))
    assert any("Masks belong to the refined boxes" in line for line in log)
    assert not any("zeros" in line for line in log)


def test_masks_without_any_detection():
    detector = mask_rcnn()
    detector.test_cfg.rcnn.score_thr = 1.5
    nms = dict(type="EnergyGuidedNMS", score_thr=1.5)
    model = make(wrapped(detector, candidates=nms, masks_from="refined"))
    for sample in predict(model, batch(model)):
        assert len(sample.pred_instances) == 0
        assert sample.pred_instances.masks.shape[0] == 0


def test_the_switch_is_refused_where_it_would_do_nothing():
    with pytest.raises(ValueError, match="FasterRCNN has no roi_head.predict_mask"):
        make(wrapped(detector_cfg("faster_rcnn"), masks_from="refined"))
    with pytest.raises(ValueError, match="masks_from='boxes'; use 'detected' or 'refined'"):
        make(wrapped(detector_cfg("faster_rcnn"), masks_from="boxes"))


def narrow(value, name: str = ""):
    """The config of a part with fewer channels and classes."""
    if isinstance(value, dict):
        return type(value)({key: narrow(each, key) for key, each in value.items()})
    if isinstance(value, list):
        return [narrow(each, name) for each in value]
    if name == "num_classes":
        return NUM_CLASSES if value == 80 else 5
    return {256: 16, 1024: 32}.get(value, value) if name.endswith("channels") else value


@pytest.mark.parametrize("path", ["htc/htc_r50_fpn_1x_coco.py", "scnet/scnet_r50_fpn_1x_coco.py"])
def test_masks_that_want_more_than_boxes(path):
    cfg = small(path)
    cfg.roi_head = narrow(cfg.roi_head)
    cfg.neck.out_channels = cfg.rpn_head.in_channels = cfg.rpn_head.feat_channels = 16
    cfg.test_cfg.rpn.update(max_per_img=50)
    cfg.test_cfg.rcnn.update(score_thr=0.0, max_per_img=8)
    nms = dict(type="EnergyGuidedNMS", score_thr=0.0, max_per_img=5)
    model = build(wrapped(cfg, candidates=nms, masks_from="refined"))
    detector, data = model.detector, batch(model)
    own = predict(detector, data, rescale=True)
    again = [sample.new(pred_instances=sample.pred_instances[:]) for sample in own]
    with torch.no_grad():
        feats = detector.extract_feat(data["inputs"])
        predict_masks(detector, feats, again, rescale=True, replace=True)
    for a, b in zip(own, again):
        assert len(a.pred_instances)
        # Boxes have been divided and multiplied by the scale: rounding at the border.
        assert (a.pred_instances.masks != b.pred_instances.masks).float().mean() < 1e-3
    for sample in predict(model, batch(model)):
        assert sample.pred_instances.masks.shape[0] == len(sample.pred_instances) == 5


def rock(detector: ConfigDict) -> dict:
    scene = dict(type="SceneTask", num_scenes=3)
    block = dict(type="ROCKBlock", in_channels=64, mid_channels=8, tasks=dict(scene=scene))
    return dict(type="ROCKDetector", detector=detector, block=block)


def test_masks_of_a_detector_inside_another_one():
    nms = dict(type="EnergyGuidedNMS", score_thr=0.0, max_per_img=5)
    model = build(wrapped(rock(mask_rcnn()), candidates=nms, masks_from="refined"))
    assert model.feature_sources == ("detector.neck",)
    for sample in predict(model, batch(model)):
        assert sample.pred_instances.masks.shape == (5, 128, 160)
        assert "pred_scene" in sample
