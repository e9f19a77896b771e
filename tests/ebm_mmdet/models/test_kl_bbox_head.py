"""The heads that predict a variance per side, inside whole detectors."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from mmdet.registry import METRICS, MODELS
from mmdet.structures import DetDataSample
from mmdet.testing import demo_mm_inputs
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.structures import InstanceData

from ebm_mmdet.energy import RefinementResult
from ebm_mmdet.evaluation.gaussian_scores import side_covariance
from ebm_mmdet.models import encode_boxes
from ebm_mmdet.models.losses import kl_loss
from ebm_mmdet.models.side_uncertainty import covariance_to_side_std, side_std_to_covariance
from tests.ebm_mmdet.models.toys import NUM_CLASSES, batch, build, detector_cfg, ebm_cfg

FIELDS = ("side_std", "box_std", "box_cov")
DETECTORS = ["faster_rcnn", "retinanet"]


def head_cfg(cfg):
    return cfg.roi_head.bbox_head if "roi_head" in cfg else cfg.bbox_head


def kl_cfg(name="faster_rcnn", **overrides):
    cfg = detector_cfg(name)
    head = head_cfg(cfg)
    head.type = "KLBBoxHead" if name == "faster_rcnn" else "KLRetinaHead"
    head.bbox_coder = dict(type="DeltaXYXYBBoxCoder")
    head.loss_bbox = dict(type="KLLoss")
    head.update(overrides)
    return cfg


def head_of(model):
    return model.roi_head.bbox_head if hasattr(model, "roi_head") else model.bbox_head


def inference_cfg(model):
    return model.roi_head.test_cfg if hasattr(model, "roi_head") else model.bbox_head.test_cfg


def alpha_layer(model):
    head = head_of(model)
    return head.fc_alpha if hasattr(head, "fc_alpha") else head.retina_alpha


def build_kl(name="faster_rcnn", **overrides):
    """A detector with α and scores that differ between boxes."""
    model = build(kl_cfg(name, **overrides))
    torch.nn.init.normal_(alpha_layer(model).weight, std=0.3)
    if name == "retinanet":
        torch.nn.init.normal_(model.bbox_head.retina_cls.weight, std=0.3)
    return model


@torch.no_grad()
def predict(model, data, rescale=True):
    samples = model.predict(data["inputs"], data["data_samples"], rescale=rescale)
    return [sample.pred_instances for sample in samples]


@pytest.mark.parametrize("agnostic", [False, True])
def test_sizes_and_initial_values(agnostic):
    model = build(kl_cfg(reg_class_agnostic=agnostic))
    head, boxes = model.roi_head.bbox_head, 1 if agnostic else NUM_CLASSES
    scores, pred = head(torch.randn(5, 16, 7, 7))
    assert scores.shape == (5, NUM_CLASSES + 1)
    assert pred.shape == (5, 8 * boxes)
    assert head.fc_alpha.weight.std().item() == pytest.approx(1e-4, rel=0.3)
    assert head.fc_reg.weight.std().item() == pytest.approx(1e-3, rel=0.3)
    assert not head.fc_alpha.bias.any()
    assert pred[:, 4 * boxes :].abs().max() < 0.05


def test_initial_values_of_retinanet():
    head = build(kl_cfg("retinanet")).bbox_head
    assert head.retina_alpha.weight.std().item() == pytest.approx(1e-4, rel=0.1)
    assert head.retina_reg.weight.std().item() == pytest.approx(1e-2, rel=0.1)
    assert head.retina_cls.bias.mean() < -4
    assert not head.retina_alpha.bias.any()


@pytest.mark.parametrize("agnostic", [False, True])
def test_loss_is_that_of_the_annotated_class(agnostic):
    torch.manual_seed(0)
    head = build(kl_cfg(reg_class_agnostic=agnostic)).roi_head.bbox_head
    labels = torch.tensor([2, 0, NUM_CLASSES, 1, NUM_CLASSES])
    boxes = 1 if agnostic else NUM_CLASSES
    pred = torch.randn(5, 8 * boxes)
    targets, weights = torch.randn(5, 4), torch.ones(5, 4)
    scores = torch.randn(5, NUM_CLASSES + 1)
    losses = head.loss(scores, pred, torch.zeros(5, 5), labels, torch.ones(5), targets, weights)
    expected, alphas = 0.0, []
    for row, label in ((0, 2), (1, 0), (3, 1)):
        column = 0 if agnostic else 4 * label
        delta = pred[row, column : column + 4]
        alphas.append(pred[row, 4 * boxes + column : 4 * boxes + column + 4])
        expected = expected + kl_loss(delta, targets[row], alphas[-1]).sum() / 5
    torch.testing.assert_close(losses["loss_bbox"], expected)
    torch.testing.assert_close(losses["alpha"], torch.cat(alphas).mean())
    assert set(losses) == {"loss_cls", "acc", "loss_bbox", "alpha"}


@pytest.mark.parametrize("name", DETECTORS)
def test_images_without_objects_train_every_parameter(name):
    model = build_kl(name).train()
    keys = []
    for items in ((0, 0), (2, 0)):
        data = batch(model, items, training=True)
        model.zero_grad()
        loss, values = model.parse_losses(model.loss(data["inputs"], data["data_samples"]))
        assert torch.isfinite(loss)
        loss.backward()
        for parameter in head_of(model).parameters():
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()
        keys.append(set(values))
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("faster_rcnn", "Shared2FCBBoxHead", {}),
        ("faster_rcnn", "Shared2FCBBoxHead", dict(reg_class_agnostic=True)),
        ("retinanet", "RetinaHead", {}),
    ],
)
def test_without_a_vote_boxes_are_those_of_mmdets_own_head(name, kind, options):
    """The same weights without α, in the same coordinates."""
    model = build_kl(name, **options)
    plain = kl_cfg(name, type=kind, **options)
    head_cfg(plain).loss_bbox = dict(type="L1Loss")
    plain = build(plain)
    missing = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing.missing_keys
    data = batch(model)
    for found, expected in zip(predict(model, data), predict(plain, data)):
        for key in ("bboxes", "scores", "labels"):
            torch.testing.assert_close(found[key], expected[key])
        assert len(found) > 0


def test_checkpoints_of_mmdet_load():
    plain = build(detector_cfg("faster_rcnn"))
    result = build(kl_cfg()).load_state_dict(plain.state_dict(), strict=False)
    assert set(result.missing_keys) == {
        f"roi_head.bbox_head.fc_alpha.{n}" for n in ("weight", "bias")
    }
    assert not result.unexpected_keys


def test_without_a_test_config_all_boxes_are_returned():
    model, plain = (
        build_kl(),
        build(kl_cfg(type="Shared2FCBBoxHead", loss_bbox=dict(type="L1Loss"))),
    )
    plain.load_state_dict(model.state_dict(), strict=False)
    head, x = model.roi_head.bbox_head, torch.randn(6, 16, 7, 7)
    rois = torch.tensor([[0.0, 10, 10, 40, 60]]).expand(6, 5)
    meta = dict(img_shape=(100, 100), scale_factor=(2.0, 2.0))
    outputs = [
        h.predict_by_feat((rois,), *[(part,) for part in h(x)], [meta], None, True)[0]
        for h in (head, plain.roi_head.bbox_head)
    ]
    torch.testing.assert_close(outputs[0].bboxes, outputs[1].bboxes)
    torch.testing.assert_close(outputs[0].scores, outputs[1].scores)


def test_standard_deviations_by_hand():
    """One proposal of 40 x 20 px, shown at twice the size of the image."""
    head = build_kl().roi_head.bbox_head
    rois = torch.tensor([[0.0, 10, 10, 50, 30]])
    scores = torch.tensor([[9.0, 0, 0, 0]])
    alpha = torch.tensor([0.0, 2.0, -2.0, 100.0])
    pred = torch.cat((torch.zeros(1, 12), alpha.repeat(1, 3)), 1)
    cfg = dict(score_thr=0.5, nms=dict(type="nms", iou_threshold=0.5), max_per_img=10)
    meta = dict(img_shape=(100, 100), scale_factor=(2.0, 4.0))
    for rescale, scale in ((False, torch.ones(4)), (True, torch.tensor([2.0, 4, 2, 4]))):
        (found,) = head.predict_by_feat((rois,), (scores,), (pred,), [meta], cfg, rescale)
        torch.testing.assert_close(found.bboxes, rois[:, 1:] / scale)
        expected = 0.1 * torch.tensor([[40.0, 20, 40, 20]]) * torch.exp(alpha.clamp(max=10) / 2)
        torch.testing.assert_close(found.side_std, expected / scale, rtol=1e-4, atol=0)
        # Relative to the box, so in whatever pixels.
        relative = 0.1 * torch.exp(alpha[:3] / 2)
        assert found.box_std[0, 0] == pytest.approx(
            (relative[0] ** 2 + relative[2] ** 2).sqrt() / 2
        )
        assert found.box_std[0, 2] == pytest.approx((relative[0] ** 2 + relative[2] ** 2).sqrt())


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


def test_the_stages_of_a_cascade_see_deltas_only():
    head = build_kl().roi_head.bbox_head
    priors = torch.tensor([[10.0, 10, 50, 30], [0, 0, 20, 20]])
    pred, meta = torch.randn(2, 24), dict(img_shape=(100, 100))
    labels = torch.tensor([2, 0])
    found = head.regress_by_class(priors, labels, pred, meta)
    deltas = torch.stack((pred[0, 8:12], pred[1, :4]))
    torch.testing.assert_close(found, head.bbox_coder.decode(priors, deltas, (100, 100)))


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


def build_mask_rcnn(cfg_only=False):
    cfg = get_config("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py").model
    plain = kl_cfg()
    for part in ("backbone", "neck", "rpn_head"):
        cfg[part] = plain[part]
    cfg.roi_head.bbox_roi_extractor.out_channels = 16
    cfg.roi_head.mask_roi_extractor.out_channels = 16
    cfg.roi_head.bbox_head = plain.roi_head.bbox_head
    cfg.roi_head.mask_head.update(
        num_convs=1, in_channels=16, conv_out_channels=16, num_classes=NUM_CLASSES
    )
    cfg.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5, var_vote={})
    cfg = ConfigDict(cfg.to_dict())
    return cfg if cfg_only else build(cfg)


def test_hard_examples_are_mined_with_the_head_as_it_is():
    """mmdet's OHEM sampler asks for a loss without boxes: ``bbox_pred=None``."""
    cfg = kl_cfg()
    cfg.train_cfg.rcnn.sampler = dict(
        type="OHEMSampler", num=32, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True
    )
    model = build(cfg).train()
    data = batch(model, training=True)
    losses = model.loss(data["inputs"], data["data_samples"])
    assert {"loss_cls", "loss_bbox", "alpha"} <= losses.keys()
    head = model.roi_head.bbox_head
    labels = torch.tensor([0, NUM_CLASSES])
    weights, scores = torch.ones(2), torch.randn(2, NUM_CLASSES + 1)
    found = head.loss(scores, None, torch.rand(2, 5), labels, weights, None, None, "none")
    assert found["loss_cls"].shape == (2,)
    assert "loss_bbox" not in found


def test_anchors_do_not_move_under_autocast():
    """Anchors beyond 256 px are no bfloat16 numbers: they were off by up to 4 px."""
    head = build_kl("retinanet").bbox_head
    maps = [torch.randn(1, 16, 2 ** (6 - i), 2 ** (6 - i)) for i in range(5)]
    meta = dict(img_shape=(512, 512), scale_factor=(1.0, 1.0))
    with torch.no_grad():
        outputs = head(maps)
        exact, rounded = (
            head.predict_by_feat(
                *([level.to(dtype) for level in part] for part in outputs),
                batch_img_metas=[meta],
                cfg=dict(nms_pre=-1, score_thr=0.0, min_bbox_size=-1),
                with_nms=False,
            )[0]
            for dtype in (torch.float32, torch.bfloat16)
        )
    # Sorted, because the order is that of the scores, which the types round differently.
    centres = [
        (found.bboxes[:, :2] + found.bboxes[:, 2:]).div(2).sort(0).values
        for found in (exact, rounded)
    ]
    assert len(exact) == len(rounded) > 1000
    assert (centres[0] - centres[1]).abs().max() < 1.0


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


def test_wrong_parts_are_refused():
    with pytest.raises(ValueError, match="DeltaXYWHBBoxCoder"):
        MODELS.build(dict(type="KLBBoxHead", bbox_coder=dict(type="DeltaXYWHBBoxCoder")))
    with pytest.raises(ValueError, match="reg_decoded_bbox"):
        MODELS.build(dict(type="KLBBoxHead", reg_decoded_bbox=True))
    with pytest.raises(ValueError, match="with_reg"):
        MODELS.build(dict(type="KLBBoxHead", with_cls=False))
    cfg = kl_cfg("retinanet", bbox_coder=dict(type="DeltaXYWHBBoxCoder")).bbox_head
    with pytest.raises(ValueError, match="DeltaXYXYBBoxCoder"):
        MODELS.build(cfg)


def test_retinanet_without_nms_returns_candidates():
    head = build_kl("retinanet").bbox_head
    maps = [torch.randn(1, 16, 2 ** (5 - i), 2 ** (5 - i)) for i in range(5)]
    meta = dict(img_shape=(256, 256), scale_factor=(1.0, 1.0))
    with torch.no_grad():
        (found,) = head.predict_by_feat(*head(maps), batch_img_metas=[meta], with_nms=False)
    assert isinstance(found, InstanceData)
    assert len(found) > inference_cfg(build_kl("retinanet")).max_per_img
    assert (found.scores.diff() <= 0).all()
