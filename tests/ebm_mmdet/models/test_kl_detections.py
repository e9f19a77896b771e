"""Variances of detections further on: votes, masks, candidates, refinement, and the metric."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from mmdet.registry import METRICS
from mmdet.structures import DetDataSample
from mmdet.testing import demo_mm_inputs
from mmengine.structures import InstanceData

from ebm_mmdet.energy import RefinementResult
from ebm_mmdet.evaluation.gaussian_scores import side_covariance
from ebm_mmdet.models import encode_boxes
from ebm_mmdet.models.side_uncertainty import covariance_to_side_std, side_std_to_covariance
from tests.ebm_mmdet.models.kl_toys import (
    DETECTORS,
    FIELDS,
    alpha_layer,
    build_kl,
    build_mask_rcnn,
    head_of,
    inference_cfg,
    kl_cfg,
    predict,
)
from tests.ebm_mmdet.models.toys import NUM_CLASSES, batch, build, ebm_cfg


def predict_maps(head, rois, outputs, metas, cfg):
    """Detections in the images' own pixels from what the head returned."""
    options = dict(rcnn_test_cfg=cfg) if rois else dict(cfg=cfg)
    return head.predict_by_feat(*rois, *outputs, batch_img_metas=metas, rescale=True, **options)


def one_image(outputs, i):
    """Image i of a head's maps for a batch, or of tensors per image."""
    if isinstance(outputs[0], torch.Tensor) and outputs[0].dim() == 2:
        return outputs[i : i + 1]
    return [level[i : i + 1] for level in outputs]


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("nms", [dict(type="nms", iou_threshold=0.5), dict(type="soft_nms")])
def test_a_batch_is_its_images(name, nms):
    """The same outputs of the head, which differ in the last digit if computed again."""
    model = build_kl(name)
    head, cfg = head_of(model), inference_cfg(model)
    cfg.update(var_vote=dict(sigma_t=0.05), nms=nms)
    metas = [dict(img_shape=(64, 96), scale_factor=(s, 1.0)) for s in (1.0, 2.0)]
    with torch.no_grad():
        if name == "retinanet":
            outputs = head([torch.randn(2, 16, 8 // 2**i or 1, 12 // 2**i or 1) for i in range(5)])
            extra = ()
        else:
            corner = 40 * torch.rand(30, 2)
            boxes = torch.cat((corner, corner + 5 + 20 * torch.rand(30, 2)), 1)
            rois = torch.cat((torch.zeros(30, 1), boxes), 1).split((20, 10))
            outputs = [part.split((20, 10)) for part in head(torch.randn(30, 16, 7, 7))]
            extra = (rois,)
    together = predict_maps(head, extra, outputs, metas, cfg)
    for i, found in enumerate(together):
        parts = [one_image(part, i) for part in outputs]
        rois = [part[i : i + 1] for part in extra]
        (expected,) = predict_maps(head, rois, parts, metas[i : i + 1], cfg)
        assert len(found) == len(expected) > 5
        for key in ("scores", "labels", "bboxes", *FIELDS):
            torch.testing.assert_close(found[key], expected[key])


@pytest.mark.parametrize("name", DETECTORS)
def test_voting_moves_boxes_by_config(name):
    model = build_kl(name)
    data = batch(model)
    plain = predict(model, data)
    inference_cfg(model).var_vote = {}
    for before, after in zip(plain, predict(model, data)):
        torch.testing.assert_close(before.scores, after.scores)
        torch.testing.assert_close(before.side_std, after.side_std, rtol=1e-4, atol=0)
        assert (before.bboxes != after.bboxes).any()


@pytest.mark.parametrize("name", DETECTORS)
def test_autocast_and_wild_alpha_stay_finite(name):
    model = build_kl(name)
    torch.nn.init.normal_(alpha_layer(model).weight, std=1e6)
    inference_cfg(model).var_vote = {}
    data = batch(model, training=True)
    for sample in data["data_samples"]:
        sample.gt_instances.bboxes[:1] = torch.tensor([[20.0, 20, 21, 21]])  # one pixel
    # mmdet's proposals do not work in bfloat16 on a CPU, so they are found without.
    samples, maps = data["data_samples"], model.extract_feat(data["inputs"])
    two_stages = name == "faster_rcnn"
    second = model.roi_head if two_stages else model.bbox_head
    proposals = [model.rpn_head.predict(maps, samples)] if two_stages else []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            found = second.predict(maps, *proposals, samples, rescale=True)
        total, _ = model.parse_losses(second.loss(maps, *proposals, samples))
    assert torch.isfinite(total)
    total.backward()
    for parameter in model.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()
    for image in found:
        for key in ("bboxes", "scores", *FIELDS):
            assert torch.isfinite(image[key]).all()
            assert image[key].dtype == torch.float32
        assert (image.box_std > 0).all()


def test_images_without_detections_have_the_fields():
    model = build_kl()
    inference_cfg(model).update(score_thr=2.0, var_vote={})
    for found in predict(model, batch(model)):
        assert len(found) == 0
        assert found.box_std.shape == (0, 4)


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("refiner", ["GradientAscentRefiner", "ImportanceMeanRefiner"])
def test_variances_are_the_prior_of_refinement(name, refiner):
    cfg = kl_cfg(name)
    test_cfg = cfg.test_cfg.rcnn if name == "faster_rcnn" else cfg.test_cfg
    test_cfg.var_vote = {}
    prior = dict(std="per_box", scale=0.1)
    refiner = dict(type=refiner, prior=prior)
    model = build(ebm_cfg(name, detector=cfg, refiner=refiner, clip_boxes=False))
    torch.nn.init.normal_(alpha_layer(model.detector).weight, std=0.3)
    data = batch(model)
    refined = predict(model, data)
    model.refiner = None
    for after, before in zip(refined, predict(model, data)):
        assert torch.isfinite(after.bboxes).all()
        shift = encode_boxes(after.bboxes, before.bboxes).abs() / before.box_std
        assert 0 < shift.max() < 1
        # Box, covariance and sides agree: the box is what the covariance is relative to.
        if refiner["type"] == "GradientAscentRefiner":
            torch.testing.assert_close(after.side_std, before.side_std, rtol=1e-3, atol=1e-4)
            assert not torch.equal(after.box_cov, before.box_cov)
        large = (after.bboxes[:, 2:] - after.bboxes[:, :2] > 1).all(1)
        box, covariance = after.bboxes[large].double(), after.box_cov[large].double()
        sides = side_covariance(box.numpy(), covariance.numpy())[:, range(4), range(4)]
        np.testing.assert_allclose(after.side_std[large] ** 2, sides, rtol=1e-2, atol=1e-4)
        torch.testing.assert_close(after.box_cov.diagonal(dim1=1, dim2=2).sqrt(), after.box_std)


def test_sides_and_covariances_are_one_statement():
    boxes = torch.tensor([[10.0, 20, 50, 70], [0, 0, 30, 20]])
    std = torch.tensor([[4.0, 1, 0.01, 4], [0.5, 2, 2, 30]])
    found = covariance_to_side_std(boxes, side_std_to_covariance(boxes, std))
    torch.testing.assert_close(found, std, rtol=5e-3, atol=0)


def test_a_box_std_alone_is_carried_over_too():
    """Relative to a box twice as wide, half the uncertainty: sides keep theirs in pixels."""
    model = build(ebm_cfg(clip_boxes=False))
    double = torch.tensor([[0.0, 0.0, math.log(2), 0.0]])
    n = torch.arange(3)
    model.refiner = lambda fn, y0, **_: RefinementResult(
        double.expand_as(y0), torch.zeros(len(y0)), torch.ones(len(y0)).long(), None
    )
    boxes = torch.tensor([[10.0, 20, 50, 70]]).expand(3, 4) + n[:, None]
    found = InstanceData(bboxes=boxes, labels=n, box_std=torch.full((3, 4), 0.1))
    sample = DetDataSample(pred_instances=found, metainfo=dict(img_shape=(128, 160)))
    feats = model.energy_head.prepare(model.extract_maps(torch.zeros(1, 3, 128, 160)))
    (sample,) = model.refine(feats, [sample], rescale=False)
    expected = torch.tensor([0.05, 0.1, 0.05, 0.1]).expand(3, 4)
    torch.testing.assert_close(sample.pred_instances.box_std, expected)


def test_mask_rcnn_takes_the_head_as_it_is():
    model = build_mask_rcnn().train()
    data = demo_mm_inputs(
        2, [(3, 64, 96)] * 2, num_items=[1, 2], num_classes=NUM_CLASSES, with_mask=True
    )
    data = model.data_preprocessor(data, True)
    loss, values = model.parse_losses(model.loss(data["inputs"], data["data_samples"]))
    assert {"loss_bbox", "loss_mask", "alpha"} <= set(values)
    loss.backward()
    assert model.roi_head.bbox_head.fc_alpha.weight.grad.isfinite().all()
    for found in predict(model.eval(), data):
        assert 0 < len(found) == len(found.masks) == len(found.side_std) == len(found.box_cov)


def test_energy_guided_selection_keeps_the_fields():
    candidates = dict(type="EnergyGuidedNMS", score_thr=0.2, max_per_img=5)
    refiner = dict(type="GradientAscentRefiner", prior=dict(std="per_box"))
    cfg = ebm_cfg(detector=kl_cfg(), candidates=candidates, refiner=refiner)
    model = build(cfg)
    for found in predict(model, batch(model)):
        assert 0 < len(found) <= 5
        assert found.box_std.shape == (len(found), 4)


def test_the_metric_of_uncertainty_reads_the_detections(tmp_path):
    box, std = [10.0, 20.0, 50.0, 40.0], 2.0
    annotation = dict(id=1, image_id=1, category_id=1, bbox=[12, 20, 40, 20], area=800, iscrowd=0)
    content = dict(
        images=[dict(id=1, width=100, height=100)],
        categories=[dict(id=1, name="thing")],
        annotations=[annotation],
    )
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    metric = METRICS.build(dict(type="ProbabilisticBoxMetric", ann_file=str(path)))
    metric.dataset_meta = dict(classes=("thing",))

    model = build_kl(num_classes=1)
    rois = torch.tensor([[0.0, *box]])
    pred = torch.cat((torch.zeros(1, 4), 2 * torch.tensor([[std / 4, std / 2] * 2]).log()), 1)
    cfg = dict(score_thr=0.5, nms=dict(type="nms", iou_threshold=0.5), max_per_img=10)
    (found,) = model.roi_head.bbox_head.predict_by_feat(
        (rois,), (torch.tensor([[9.0, 0]]),), (pred,), [dict(img_shape=(100, 100))], cfg
    )
    torch.testing.assert_close(found.side_std, torch.full((1, 4), std))
    sample = DetDataSample(pred_instances=found, metainfo=dict(img_id=1)).to_dict()
    metric.process({}, [sample])
    values = metric.evaluate(1)
    # x1 and x2 are off by one standard deviation, y1 and y2 are right.
    normal = torch.distributions.Normal(0.0, std)
    expected = -2 * (normal.log_prob(torch.tensor(2.0)) + normal.log_prob(torch.tensor(0.0)))
    assert values["probabilistic/nll_px"] == pytest.approx(expected.item(), rel=1e-4)
