"""ROCK's SSD head: matching, losses against literal loops, and the selection at test time."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from tests.ebm_mmdet.models.rock.rock_toys import (
    ASSIGNER,
    NUM_CLASSES,
    SIZE,
    TEST_CFG,
    build,
    ssd_cfg,
)
from tests.tolerances import TOLERANCE

META = dict(img_shape=SIZE, pad_shape=SIZE, batch_input_shape=SIZE, scale_factor=(1.0, 1.0))


def make_head(**kwargs):
    cfg = ssd_cfg(**kwargs)
    torch.manual_seed(0)
    return MODELS.build({**cfg.bbox_head, "train_cfg": cfg.train_cfg, "test_cfg": cfg.test_cfg})


def truth(boxes=(), labels=()) -> InstanceData:
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.long),
    )


def outputs(head, images: int, seed: int = 0):
    """Random maps of all levels of 64 x 96 pixels."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(4, 6), (2, 3), (1, 2), (1, 1), (1, 1), (1, 1)]
    cls, reg = (
        [
            torch.randn(images, n * width, *size, generator=generator).requires_grad_()
            for n, size in zip(head.num_base_priors, sizes)
        ]
        for width in (NUM_CLASSES + 1, 4)
    )
    return cls, reg


def iou(box, prior) -> float:
    left, top = max(box[0], prior[0]), max(box[1], prior[1])
    right, bottom = min(box[2], prior[2]), min(box[3], prior[3])
    overlap = max(0.0, right - left) * max(0.0, bottom - top)
    area = sum((each[2] - each[0]) * (each[3] - each[1]) for each in (box, prior))
    return overlap / (area - overlap)


def literal_match(priors, boxes) -> list[int]:
    """Index of the box of each prior; -1 background, -2 ignored."""
    found = []
    for prior in priors:
        overlaps = [iou(box, prior) for box in boxes]
        best = max(range(len(boxes)), key=overlaps.__getitem__) if boxes else -1
        highest = overlaps[best] if boxes else 0.0
        found.append(best if highest > 0.5 else -1 if highest < 0.4 else -2)
    for i, box in enumerate(boxes):  # later boxes override
        overlaps = [iou(box, prior) for prior in priors]
        if max(overlaps) > 0:
            found[overlaps.index(max(overlaps))] = i
    return found


def literal_encode(box, prior) -> list[float]:
    centres, sides = [], []
    for low, high in ((0, 2), (1, 3)):
        whole = prior[high] - prior[low]
        shift = (box[low] + box[high]) / 2 - (prior[low] + prior[high]) / 2
        centres.append(shift / whole / 0.1)
        sides.append(math.log((box[high] - box[low]) / whole) / 0.2)
    return centres + sides


def literal_losses(head, cls, reg, truths, ratio=3, all_priors=False):
    """Loss of each image, prior by prior; the mean over the images."""
    logits, boxes = head.flatten_outputs(cls, reg)
    priors = head.priors(cls, [META]).tolist()
    conf_total = loc_total = 0.0
    for image, each in enumerate(truths):
        matched = literal_match(priors, each.bboxes.tolist())
        positives, negatives, loc = [], [], 0.0
        for p, own in enumerate(matched):
            label = NUM_CLASSES if own < 0 else int(each.labels[own])
            loss = -F.log_softmax(logits[image, p], 0)[label]
            if own >= 0:
                positives.append(loss)
                target = torch.tensor(literal_encode(each.bboxes[own].tolist(), priors[p]))
                error = (boxes[image, p] - target).abs()
                loc = loc + torch.where(error < 1, 0.5 * error**2, error - 0.5).sum()
            elif own == -1:
                negatives.append(loss)
        if not positives:
            continue
        n = len(positives)
        if all_priors:
            conf = sum(positives) + 5 * (n / len(negatives)) * sum(negatives)
        else:
            conf = sum(positives) + sum(sorted(negatives, reverse=True)[: ratio * n])
        conf_total, loc_total = conf_total + conf / n, loc_total + loc / n
    return conf_total / len(truths), 6 * loc_total / len(truths)


TRUTHS = [
    truth([[10, 12, 40, 50], [50, 5, 60, 12], [13, 14, 45, 55]], [0, 2, 1]),
    truth(),
    truth([[0, 0, 96, 64]], [1]),
]


@pytest.mark.parametrize("all_priors", [False, True])
def test_losses_equal_a_literal_loop(all_priors):
    """loss = mean over images of (6 loc + conf) / P, and 0 for an image without positives."""
    head = make_head(all_priors=all_priors)
    cls, reg = outputs(head, 3)
    found = head.loss_by_feat(cls, reg, TRUTHS, [META] * 3)
    conf, loc = literal_losses(head, cls, reg, TRUTHS, all_priors=all_priors)
    torch.testing.assert_close(found["loss_cls"], conf, **TOLERANCE[torch.float32])
    torch.testing.assert_close(found["loss_bbox"], loc, **TOLERANCE[torch.float32])


def test_a_hand_case_of_normalisation_and_mining():
    """1 positive with 3 of 5 negatives, 2 with all 4; ignored ones are in neither."""
    head = make_head()
    background = NUM_CLASSES
    labels = torch.tensor([[0, -1] + [background] * 5, [1, 2, -1] + [background] * 4])
    logits = torch.zeros(2, 7, NUM_CLASSES + 1)
    # The background's cross-entropy at logit a, against zeros, falls with a: log(3 + e^a) - a.
    logits[0, 2:, -1] = torch.tensor([5.0, -1.0, 2.0, -3.0, 0.0])
    boxes = torch.zeros(2, 7, 4)
    targets = torch.zeros(2, 7, 4)
    targets[0, 0] = torch.tensor([0.5, 0.0, 0.0, 3.0])  # 0.125 + 2.5
    targets[0, 1] = 100.0  # ignored
    targets[1, 1] = torch.tensor([1.0, 0.0, 0.0, 0.0])  # 0.5
    conf, loc = head.sums_of_images(logits, boxes, labels, targets)

    def entropy(a):
        return math.log(3 + math.exp(a)) - a

    hardest = entropy(-3.0) + entropy(-1.0) + entropy(0.0)
    expected = torch.tensor([math.log(4) + hardest, 6 * math.log(4)])
    torch.testing.assert_close(conf, expected)
    torch.testing.assert_close(loc, torch.tensor([2.625, 0.5]))
    head.all_priors = True
    conf, _ = head.sums_of_images(logits, boxes, labels, targets)
    everything = sum(entropy(a) for a in (5.0, -1.0, 2.0, -3.0, 0.0))
    expected = [math.log(4) + 5 / 5 * everything, 2 * math.log(4) + 5 * 2 / 4 * 4 * math.log(4)]
    torch.testing.assert_close(conf, torch.tensor(expected))


def test_matching_has_a_band_in_which_priors_are_ignored():
    head = make_head()
    cls, _ = outputs(head, 1)
    priors = head.priors(cls, [META])
    for each in TRUTHS:
        labels, targets = head.assign(priors, each, META)
        expected = literal_match(priors.tolist(), each.bboxes.tolist())
        for label, target, own, prior in zip(labels, targets, expected, priors.tolist()):
            assert label == {-1: NUM_CLASSES, -2: -1}.get(own, each.labels[own] if own >= 0 else 0)
            if own >= 0:
                encoded = literal_encode(each.bboxes[own].tolist(), prior)
                torch.testing.assert_close(
                    target, torch.tensor(encoded), **TOLERANCE[torch.float32]
                )
            else:
                assert not target.any()
    labels, _ = head.assign(priors, TRUTHS[0], META)
    assert {-1, 0, 1, 2, NUM_CLASSES} == set(labels.tolist())


@pytest.mark.parametrize(
    "box",
    [
        [20, 20, 20, 40],
        [20, 20, 40, 20],
        [30, 30, 10, 10],
        [math.nan, 0, 5, 5],
        [0, 0, math.inf, 9],
    ],
)
def test_a_box_without_area_is_as_if_it_were_not_there(box):
    head = make_head()
    cls, reg = outputs(head, 2)
    clean = [TRUTHS[0], truth()]
    dirty = [truth([*TRUTHS[0].bboxes.tolist(), box], [0, 2, 1, 0]), truth([box], [1])]
    expected = head.loss_by_feat(cls, reg, clean, [META] * 2)
    found = head.loss_by_feat(cls, reg, dirty, [META] * 2)
    assert found == expected
    sum(found.values()).backward()
    assert all(each.grad.isfinite().all() for each in cls + reg)


def test_images_without_objects_give_a_connected_zero():
    head = make_head()
    cls, reg = outputs(head, 2)
    losses = head.loss_by_feat(cls, reg, [truth(), truth()], [META] * 2)
    assert losses["loss_cls"] == losses["loss_bbox"] == 0
    sum(losses.values()).backward()
    assert all(not each.grad.any() for each in cls + reg)


def test_priors_in_the_padding_are_in_no_loss():
    head = make_head()
    cls, _ = outputs(head, 1)
    priors = head.priors(cls, [META])
    labels, _ = head.assign(priors, truth([[10, 12, 40, 40]], [0]), {**META, "pad_shape": (64, 48)})
    right = (priors[:, 0] + priors[:, 2]) / 2 >= 48
    assert right.any()
    assert (labels[right] == -1).all()
    assert (labels[~right] == NUM_CLASSES).any()


def test_losses_are_float32_under_autocast():
    model = build(ssd_cfg()).train()
    head = model.bbox_head
    x = torch.randn(2, 3, *SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        cls, reg = head(model.extract_feat(x))
        assert cls[0].dtype == torch.bfloat16
        found = head.loss_by_feat(cls, reg, TRUTHS[:2], [META] * 2)
    assert {each.dtype for each in found.values()} == {torch.float32}
    same = [[each.float() for each in maps] for maps in (cls, reg)]
    assert found == head.loss_by_feat(*same, TRUTHS[:2], [META] * 2)


def test_at_the_start_each_class_has_its_prior_probability():
    head = build(ssd_cfg()).bbox_head
    assert head.cls_convs[1][-1].bias.shape == (6 * (NUM_CLASSES + 1),)
    cls, _ = head([torch.zeros(1, c, 1, 1) for c in head.in_channels])
    logits = cls[0].reshape(-1, NUM_CLASSES + 1)
    expected = torch.tensor([math.log(0.01 / 0.99)] * NUM_CLASSES + [0.0])
    torch.testing.assert_close(logits, expected.expand_as(logits))


def test_detections_equal_a_literal_selection():
    """Above .05; the best 5 of each class; greedy NMS at .3 in each class; the best 8 of all."""
    head = make_head()
    cfg = ConfigDict({**TEST_CFG, "max_per_class": 5, "max_per_img": 8})
    cls, reg = outputs(head, 2, seed=3)
    cls = [2 * each for each in cls]
    results = head.predict_by_feat(cls, reg, batch_img_metas=[META] * 2, cfg=cfg)
    logits, deltas = head.flatten_outputs(cls, reg)
    priors = head.priors(cls, [META])
    for image, found in enumerate(results):
        scores = logits[image].detach().softmax(1)[:, :-1]
        boxes = head.bbox_coder.decode(priors, deltas[image].detach(), max_shape=SIZE)
        chosen = []
        for label in range(NUM_CLASSES):
            kept = []
            for p in scores[:, label].argsort(descending=True)[:5].tolist():
                box = boxes[p].tolist()
                if scores[p, label] > 0.05 and all(iou(box, other) <= 0.3 for other, _ in kept):
                    kept.append((box, scores[p, label].item()))
            chosen += [(score, label, box) for box, score in kept]
        chosen.sort(key=lambda each: -each[0])
        assert len(found) == min(8, len(chosen)) > 3
        for i, (score, label, box) in enumerate(chosen[:8]):
            assert found.labels[i] == label
            assert found.scores[i].item() == pytest.approx(score, rel=1e-5)
            assert found.bboxes[i].tolist() == pytest.approx(box, rel=1e-4, abs=1e-3)


def test_without_nms_all_candidates_are_returned():
    head = make_head()
    cls, reg = outputs(head, 1)
    cfg = ConfigDict({**TEST_CFG, "score_thr": 0.0, "nms": None, "max_per_img": 10**6})
    (found,) = head.predict_by_feat(cls, reg, batch_img_metas=[META], cfg=cfg)
    assert len(found) == NUM_CLASSES * len(head.priors(cls, [META]))
    (none,) = head.predict_by_feat(
        cls, reg, batch_img_metas=[META], cfg={**TEST_CFG, "score_thr": 2}
    )
    assert none.bboxes.shape == (0, 4)


def test_boxes_are_rescaled_to_the_original_image():
    head = make_head()
    cls, reg = outputs(head, 1)
    meta = {**META, "scale_factor": (2.0, 0.5)}
    (plain,) = head.predict_by_feat(cls, reg, batch_img_metas=[meta])
    (scaled,) = head.predict_by_feat(cls, reg, batch_img_metas=[meta], rescale=True)
    top = scaled.bboxes * torch.tensor([2.0, 0.5, 2.0, 0.5])
    assert any(torch.allclose(top[0], box, atol=1e-4) for box in plain.bboxes)


def test_another_generator_and_another_assigner_are_taken():
    generator = dict(
        type="SSDAnchorGenerator",
        strides=[16, 32, 64, 64, 96, 96],
        ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        min_sizes=[7, 15, 33, 51, 69, 87],
        max_sizes=[15, 33, 51, 69, 87, 105],
    )
    head = make_head(anchor_generator=generator)
    cls, reg = outputs(head, 1)
    assert head.loss_by_feat(cls, reg, TRUTHS[:1], [META])["loss_cls"] > 0
    head.assigner.pos_iou_thr = 2.0
    head.assigner.match_low_quality = False
    assert head.loss_by_feat(cls, reg, TRUTHS[:1], [META])["loss_cls"] == 0
    assert ASSIGNER["pos_iou_thr"] == 0.5


def test_decoded_regression_is_refused():
    with pytest.raises(ValueError, match="reg_decoded_bbox=False"):
        make_head(reg_decoded_bbox=True)
