"""KLBBoxHead: sizes, losses, and the detections of a detector with it or with KLRetinaHead."""

from __future__ import annotations

import pytest
import torch
from mmdet.registry import MODELS

from ebm_mmdet.models.losses import kl_loss
from tests.ebm_mmdet.models.kl_toys import DETECTORS, build_kl, head_cfg, head_of, kl_cfg, predict
from tests.ebm_mmdet.models.toys import NUM_CLASSES, batch, build, detector_cfg


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


def test_the_stages_of_a_cascade_see_deltas_only():
    head = build_kl().roi_head.bbox_head
    priors = torch.tensor([[10.0, 10, 50, 30], [0, 0, 20, 20]])
    pred, meta = torch.randn(2, 24), dict(img_shape=(100, 100))
    labels = torch.tensor([2, 0])
    found = head.regress_by_class(priors, labels, pred, meta)
    deltas = torch.stack((pred[0, 8:12], pred[1, :4]))
    torch.testing.assert_close(found, head.bbox_coder.decode(priors, deltas, (100, 100)))


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
