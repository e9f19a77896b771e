"""Variance voting against a loop written from the formula, and its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from ebm_mmdet.evaluation.gaussian_scores import side_covariance
from ebm_mmdet.models import variance_vote
from ebm_mmdet.models.task_modules.variance_voting import select_detections

HARD = dict(type="nms", iou_threshold=0.5)
GAUSSIAN = dict(type="soft_nms", method="gaussian", sigma=0.5, min_score=1e-3)
LINEAR = dict(type="soft_nms", method="linear", iou_threshold=0.3, min_score=0.05)


def make_image(generator, number, classes=3, spread=0.15):
    """Candidates in clusters around a few objects, as a detector leaves them."""

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(*shape, generator=generator)

    objects = uniform(0, 200, 3, 2)
    objects = torch.cat((objects, objects + uniform(10, 80, 3, 2)), 1)
    which = torch.randint(3, (number,), generator=generator)
    size = (objects[:, 2:] - objects[:, :2]).repeat(1, 2)
    noise = torch.randn(number, 4, generator=generator)
    boxes = objects[which] + spread * size[which] * noise
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    alpha = torch.randn(number, 4, generator=generator)
    return InstanceData(
        bboxes=boxes,
        scores=uniform(0.05, 1, number),
        labels=torch.randint(classes, (number,), generator=generator),
        side_std=torch.exp(alpha / 2) * 3,
        alpha=alpha,
    )


def iou_of(box, boxes):
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return shared / (area + (box[2:] - box[:2]).prod() - shared)


def loop(image, nms, sigma_t=0.02, iou_thr=0.0, candidates="all"):
    """Algorithm 1, one class and one box at a time: (score, class, box), best first."""
    found = []
    all_scores = image.scores.double().numpy()
    for label in image.labels.unique().tolist():
        rows = torch.nonzero(image.labels == label).squeeze(1).numpy()
        boxes = image.bboxes[rows].double().numpy()
        variance = np.exp(image.alpha[rows].double().numpy())
        scores, left = all_scores[rows].copy(), np.ones(len(rows), bool)
        while left.any():
            m = int(np.argmax(np.where(left, scores, -1)))
            iou = iou_of(boxes[m], boxes)
            voters = iou > iou_thr
            if candidates == "remaining":
                voters &= left
            voters[m] = True
            weight = np.exp(-((1 - iou[voters]) ** 2) / sigma_t)[:, None] / variance[voters]
            found.append((scores[m], label, (weight * boxes[voters]).sum(0) / weight.sum(0)))
            left[m] = False
            if nms["type"] == "nms":
                left &= iou <= nms["iou_threshold"]
            else:
                if nms["method"] == "gaussian":
                    decay = np.exp(-(iou**2) / nms["sigma"])
                else:
                    decay = np.where(iou >= nms["iou_threshold"], 1 - iou, 1)
                scores = scores * decay
                left &= scores >= nms["min_score"]
    return sorted(found, key=lambda entry: -entry[0])


@pytest.mark.parametrize(
    ("nms", "batches"),
    [(HARD, 100), (GAUSSIAN, 100), (LINEAR, 20)],
    ids=["hard", "gaussian", "linear"],
)
def test_equals_the_loop_on_a_thousand_random_sets(nms, batches):
    """Batches of ten images at a time, so images are voted on together as well."""
    generator = torch.Generator().manual_seed(3)
    for batch in range(batches):
        images = [make_image(generator, 1 + (7 * batch + i) % 25) for i in range(10)]
        candidates = "all" if batch % 2 else "remaining"
        vote = dict(sigma_t=0.02 + 0.01 * (batch % 3), iou_thr=0.1 * (batch // 2 % 2))
        cfg = dict(nms=nms, max_per_img=20, var_vote=dict(candidates=candidates, **vote))
        for image, found in zip(images, select_detections(images, cfg)):
            expected = loop(image, nms, candidates=candidates, **vote)[:20]
            assert found.labels.tolist() == [label for _, label, _ in expected]
            np.testing.assert_allclose(found.scores, [score for score, _, _ in expected], rtol=1e-4)
            np.testing.assert_allclose(found.bboxes, [box for _, _, box in expected], atol=2e-4)


def vote(boxes, log_variance=None, groups=None, picks=(0,), **kwargs):
    boxes = torch.as_tensor(boxes, dtype=torch.float64)
    groups = torch.zeros(len(boxes), dtype=torch.long) if groups is None else torch.tensor(groups)
    log_variance = torch.zeros_like(boxes) if log_variance is None else log_variance
    return variance_vote(boxes, log_variance, groups, torch.tensor(picks), **kwargs)


BOXES = torch.tensor([[10.0, 10, 50, 50], [12, 8, 53, 49], [9, 14, 47, 55]]).double()


def test_a_single_box_stays():
    assert torch.equal(vote(BOXES[:1]), BOXES[:1])
    far = torch.cat((BOXES[:1], BOXES[:1] + 100))
    assert torch.equal(vote(far, picks=(0, 1)), far)


def test_identical_boxes_stay():
    torch.testing.assert_close(vote(BOXES[:1].expand(4, 4)), BOXES[:1])


def test_a_wide_kernel_gives_the_mean_and_a_narrow_one_the_box():
    torch.testing.assert_close(vote(BOXES, sigma_t=1e12)[0], BOXES.mean(0))
    torch.testing.assert_close(vote(BOXES, sigma_t=1e-9)[0], BOXES[0])


def test_the_surest_side_wins_and_each_side_votes_for_itself():
    for side in range(4):
        log_variance = torch.zeros(3, 4, dtype=torch.float64)
        log_variance[1, side] = -40
        voted = vote(BOXES, log_variance)[0]
        plain = vote(BOXES)[0]
        assert voted[side] == pytest.approx(BOXES[1, side].item())
        others = [other for other in range(4) if other != side]
        torch.testing.assert_close(voted[others], plain[others])


def test_only_ratios_of_variances_matter():
    log_variance = torch.randn(3, 4, dtype=torch.float64)
    for shift in (-600.0, 600.0):
        torch.testing.assert_close(vote(BOXES, log_variance + shift), vote(BOXES, log_variance))


def test_the_order_of_boxes_does_not_matter():
    log_variance = torch.randn(3, 4, dtype=torch.float64)
    order = [2, 0, 1]
    torch.testing.assert_close(
        vote(BOXES[order], log_variance[order], picks=(1, 2, 0)),
        vote(BOXES, log_variance, picks=(0, 1, 2)),
    )


def test_groups_do_not_mix():
    log_variance = torch.randn(3, 4, dtype=torch.float64)
    alone = torch.cat([vote(BOXES[[0, 2]], log_variance[[0, 2]]), BOXES[1:2]])
    torch.testing.assert_close(vote(BOXES, log_variance, groups=[7, 2, 7], picks=(0, 1)), alone)


def test_threshold_leaves_distant_boxes_out():
    far = torch.cat((BOXES[:1], BOXES[:1] + 30))  # IoU 1/31
    assert not torch.equal(vote(far, sigma_t=10.0), far[:1])
    assert torch.equal(vote(far, sigma_t=10.0, iou_thr=0.05), far[:1])


def test_a_box_without_area_stays():
    flat = torch.tensor([[5.0, 5, 5, 30], [4, 4, 6, 31]])
    assert torch.equal(vote(flat, picks=(0,)), flat[:1].double())


def test_nothing_picked():
    assert variance_vote(BOXES, BOXES, torch.zeros(3).long(), torch.zeros(0).long()).shape == (0, 4)


@pytest.mark.parametrize("nms", [HARD, GAUSSIAN])
@pytest.mark.parametrize("candidates", ["all", "remaining"])
def test_batches_are_sets_of_images(nms, candidates):
    generator = torch.Generator().manual_seed(0)
    images = [make_image(generator, n) for n in (30, 0, 1, 12)]
    cfg = dict(nms=nms, max_per_img=10, var_vote=dict(candidates=candidates))
    together = select_detections(images, cfg)
    for image, found in zip(images, together):
        (alone,) = select_detections([image], cfg)
        assert found.keys() == alone.keys()
        for key in ("bboxes", "scores", "labels", "side_std", "box_cov", "box_std"):
            torch.testing.assert_close(found[key], alone[key])
    assert [len(found) for found in together][1:3] == [0, 1]


def test_voting_changes_boxes_and_nothing_else():
    image = make_image(torch.Generator().manual_seed(1), 40)
    plain, voted = (
        select_detections([image], dict(nms=HARD, max_per_img=100, var_vote=options))[0]
        for options in (None, {})
    )
    for key in ("scores", "labels"):
        assert torch.equal(plain[key], voted[key])
    torch.testing.assert_close(plain.side_std, voted.side_std, rtol=1e-4, atol=0)
    assert (plain.bboxes != voted.bboxes).any()
    rows = (image.bboxes[:, None] == plain.bboxes).all(2).int().argmax(0)
    torch.testing.assert_close(plain.side_std, image.side_std[rows], rtol=1e-4, atol=0)
    found = side_covariance(voted.bboxes.numpy(), voted.box_cov.double().numpy())
    np.testing.assert_allclose(
        found[:, range(4), range(4)], voted.side_std.square().numpy(), rtol=1e-3
    )
    torch.testing.assert_close(voted.box_std**2, voted.box_cov.diagonal(dim1=1, dim2=2))


def test_without_nms_every_candidate_is_returned_as_it_is():
    image = make_image(torch.Generator().manual_seed(1), 40)
    (found,) = select_detections([image], dict(nms=None, max_per_img=-1, var_vote={}))
    order = image.scores.argsort(descending=True)
    assert torch.equal(found.bboxes, image.bboxes[order])


def test_pixels_or_deltas():
    """Proposals of different size: the same α is another variance in pixels."""
    image = make_image(torch.Generator().manual_seed(2), 30)
    image.side_std = image.side_std * torch.linspace(1, 5, 30)[:, None]
    cfg = dict(nms=HARD, max_per_img=100)
    (pixel,) = select_detections([image], dict(cfg, var_vote=dict(space="pixel")))
    image.alpha = 2 * image.side_std.log()
    (delta,) = select_detections([image], dict(cfg, var_vote=dict(space="delta")))
    torch.testing.assert_close(pixel.bboxes, delta.bboxes)


@pytest.mark.parametrize("alpha", [-10.0, 10.0, -60.0, 60.0])
def test_extreme_certainty_is_finite(alpha):
    image = make_image(torch.Generator().manual_seed(2), 30)
    image.alpha = image.alpha.sign() * alpha
    image.side_std = torch.exp(image.alpha / 2)
    for space in ("delta", "pixel"):
        cfg = dict(nms=GAUSSIAN, max_per_img=100, var_vote=dict(space=space))
        (found,) = select_detections([image], cfg)
        for value in (found.bboxes, found.side_std, found.box_std, found.box_cov):
            assert torch.isfinite(value).all()


def broken_copy(image, field, row, value):
    """An image whose candidates of these rows have a number that is not finite."""
    copied = InstanceData(**{key: tensor.clone() for key, tensor in image.items()})
    copied[field][row, 2:3] = value
    return copied


@pytest.mark.parametrize("nms", [HARD, GAUSSIAN, LINEAR], ids=["hard", "gaussian", "linear"])
@pytest.mark.parametrize("candidates", ["all", "remaining"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(field, value) for field in ("alpha", "bboxes") for value in (math.nan, math.inf)],
        ("bboxes", 3e38),  # finite, but its area is not
    ],
)
def test_a_candidate_that_is_not_finite_has_no_vote(field, value, candidates, nms):
    """Of whichever image: the others are voted on as if it were not there, and it stays."""
    generator = torch.Generator().manual_seed(4)
    images = [make_image(generator, n) for n in (12, 5, 20)]
    groups = torch.cat([3 * i + image.labels for i, image in enumerate(images)])
    whole = InstanceData.cat(images)
    picks = whole.scores.argsort(descending=True)
    for row in (0, 11, 12, 20, 36):
        one = broken_copy(whole, field, row, value)
        rest, others = torch.arange(len(one)) != row, picks != row
        found, alone = (
            variance_vote(
                one.bboxes[rows],
                one.alpha[rows],
                groups[rows],
                chosen,
                remaining=(one.scores[rows], nms) if candidates == "remaining" else None,
            )
            for rows, chosen in (
                (slice(None), picks),
                (rest, (rest.cumsum(0) - 1)[picks[others]]),
            )
        )
        assert found[others].isfinite().all()
        torch.testing.assert_close(found[others], alone)
        itself = one.bboxes[row][None]
        torch.testing.assert_close(found[~others], itself, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("space", ["delta", "pixel"])
def test_a_broken_image_leaves_the_others_as_they_are(space):
    generator = torch.Generator().manual_seed(5)
    images = [make_image(generator, n) for n in (12, 5)]
    cfg = dict(nms=HARD, max_per_img=100, var_vote=dict(space=space))
    expected = select_detections(images, cfg)
    for broken in (0, 1):
        for field in ("bboxes", "alpha", "side_std"):
            some = list(images)
            some[broken] = broken_copy(images[broken], field, slice(None), math.nan)
            found = select_detections(some, cfg)[1 - broken]
            for key in ("bboxes", "scores", "labels", "side_std"):
                torch.testing.assert_close(found[key], expected[1 - broken][key])


@pytest.mark.parametrize("nms", [HARD, GAUSSIAN, LINEAR], ids=["hard", "gaussian", "linear"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_box_that_is_not_finite_leaves_the_others_of_its_image_as_they_are(nms, value):
    """mmcv's NMS would suppress nothing in the image, and soft-NMS make all scores NaN."""
    image = make_image(torch.Generator().manual_seed(6), 40)
    cfg = dict(nms=nms, max_per_img=100, var_vote={})
    for row in (0, 17, 39):
        (expected,) = select_detections([image[torch.arange(40) != row]], cfg)
        (found,) = select_detections([broken_copy(image, "bboxes", row, value)], cfg)
        for key in ("bboxes", "scores", "labels", "box_cov"):
            torch.testing.assert_close(found[key], expected[key])
    (nothing,) = select_detections([broken_copy(image, "bboxes", slice(None), value)], cfg)
    assert len(nothing) == 0


def test_empty_images():
    empty = make_image(torch.Generator(), 0)
    for image in select_detections([empty, empty], dict(nms=HARD, max_per_img=5, var_vote={})):
        assert len(image) == 0
        assert image.box_cov.shape == (0, 4, 4)
        assert math.prod(image.side_std.shape) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(sigma=0.02), "sigma"),
        (dict(sigma_t=0.0), "positive"),
        (dict(candidates="some"), "'some'"),
        (dict(space="metres"), "'metres'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        select_detections([], dict(nms=HARD, var_vote=options))


def test_remaining_needs_an_order_that_is_known():
    for nms in (dict(HARD, class_agnostic=True), dict(type="nms_match", iou_threshold=0.5)):
        with pytest.raises(ValueError, match="candidates='all'"):
            select_detections([], dict(nms=nms, var_vote=dict(candidates="remaining")))
