"""Mirror images: where boxes go, and the mean of f over them."""

from __future__ import annotations

import copy
import types

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from ebm_mmdet.apis.auditing.evidence import box_evidence
from ebm_mmdet.models.flip_mean import FLIPS, FlipMean, check_flips, mirror, mirror_boxes
from ebm_mmdet.models.heads import EBMBBoxHead
from tests.ebm_mmdet.models.toys import batch, build, ebm_cfg, energy_head_cfg
from tests.tolerances import TOLERANCE

SHAPE = (48, 80)
BOXES = torch.tensor([[10.0, 12.0, 40.0, 30.0], [20.0, 8.0, 28.0, 44.0]])
LABELS, IMAGES = torch.tensor([0, 1]), torch.zeros(2, dtype=torch.long)
VIEWS = ("", *FLIPS)


@pytest.fixture
def head() -> EBMBBoxHead:
    torch.manual_seed(0)
    noise = dict(type="GaussianMixtureNoise", sigmas=[0.05, 0.1], dim=4)
    head = EBMBBoxHead(
        num_classes=2,
        in_channels=3,
        strides=[4],
        roi_shift=-0.5,  # where cells lie symmetrically
        fc_channels=[16],
        objective=dict(type="NCEObjective", num_noise=7, noise=noise),
    ).eval()
    head.fc_energy.weight.data *= 30  # so that boxes move
    return head


@pytest.fixture
def maps() -> torch.Tensor:
    return torch.randn(1, 3, 12, 20, generator=torch.Generator().manual_seed(1))


def prepared(mean: FlipMean, maps: torch.Tensor) -> list[torch.Tensor]:
    return mean.prepare([(mirror(maps, flip),) for flip in mean.flips])


@pytest.mark.parametrize("flip", VIEWS)
def test_a_box_holds_what_it_held(flip):
    image = torch.arange(48 * 80.0).reshape(48, 80)
    x1, y1, x2, y2 = BOXES[0].long().tolist()
    u1, v1, u2, v2 = mirror_boxes(BOXES[0], flip, SHAPE).long().tolist()
    there = mirror(image, flip)[v1:v2, u1:u2]
    assert torch.equal(mirror(there, flip), image[y1:y2, x1:x2])
    assert torch.equal(mirror_boxes(mirror_boxes(BOXES, flip, SHAPE), flip, SHAPE), BOXES)
    assert torch.equal(mirror(mirror(image, flip), flip), image)


@pytest.mark.parametrize("flip", FLIPS)
def test_f_of_a_mirror_image_is_f(head, maps, flip):
    """f̄(mirror x, mirror y) = f̄(x, y), which f alone does not fulfil."""
    mean, points = FlipMean(head, VIEWS, SHAPE), BOXES[:, None] + torch.randn(2, 5, 4)
    there = mirror_boxes(points, flip, SHAPE)
    here = mean.evaluate(prepared(mean, maps), points, IMAGES, LABELS)
    mirrored = mean.evaluate(prepared(mean, mirror(maps, flip)), there, IMAGES, LABELS)
    torch.testing.assert_close(mirrored, here, **TOLERANCE[torch.float32])
    alone = [
        head.evaluate(head.prepare((each,)), where, IMAGES, LABELS)
        for each, where in ((maps, points), (mirror(maps, flip), there))
    ]
    assert (alone[0] - alone[1]).abs().max() > 1e-3


def test_one_view_is_the_head_bit_for_bit(head, maps):
    mean, limits = FlipMean(head, ("",), SHAPE), torch.tensor([80.0, 48.0])
    feats = head.prepare((maps,))
    expected = box_evidence(head, feats, BOXES, LABELS, limits)
    found = box_evidence(mean, prepared(mean, maps), BOXES, LABELS, limits)
    for name, one, other in zip(found._fields, found, expected):
        assert torch.equal(one, other), name


def test_the_climb_is_that_of_the_mean(head, maps):
    """The proposals of an image and of its mirror image are the same boxes."""
    mean, limits = FlipMean(head, VIEWS, SHAPE), torch.tensor([80.0, 48.0])
    broken = torch.tensor([[torch.nan, 0.0, 1.0, 1.0]])
    boxes, labels = torch.cat([BOXES, broken]), torch.tensor([0, 1, 0])
    here = box_evidence(mean, prepared(mean, maps), boxes, labels, limits, step_size=1e-2)
    there = box_evidence(
        mean,
        prepared(mean, mirror(maps, "horizontal")),
        mirror_boxes(boxes, "horizontal", SHAPE),
        labels,
        limits,
        step_size=1e-2,
    )
    assert here.side_shift[:2].abs().max() > 0.1
    back = mirror_boxes(there.proposal, "horizontal", SHAPE)
    torch.testing.assert_close(back[:2], here.proposal[:2], atol=0.05, rtol=0)
    torch.testing.assert_close(there.log_ratio[:2], here.log_ratio[:2], atol=1e-3, rtol=1e-3)


SIGNS = {"horizontal": [-1.0, 1, 1, 1], "vertical": [1.0, -1, 1, 1], "diagonal": [-1.0, -1, 1, 1]}


def test_without_the_last_pixel_the_same_pixels_are_read(maps):
    """Where pixel k lies at k, a box [x1, x2 - 1] is mirrored to [W - x2, W - 1 - x1]."""
    torch.manual_seed(4)
    cfg = energy_head_cfg(in_channels=3, strides=(1,), legacy_plus_one=True, roi_shift=0.0)
    head, image = MODELS.build(cfg).eval(), torch.randn(1, 3, *SHAPE)
    for flip in FLIPS:
        there = head.pool([mirror(image, flip)], mirror_boxes(BOXES, flip, SHAPE), IMAGES)
        back = mirror(there.unflatten(1, (3, head.pool_size, head.pool_size)), flip)
        expected = head.pool([image], BOXES, IMAGES)
        torch.testing.assert_close(back.flatten(1), expected, **TOLERANCE[torch.float32])


@pytest.mark.parametrize("flip", FLIPS)
def test_the_regression_of_a_mirror_image_is_mirrored(maps, flip):
    torch.manual_seed(3)
    head = MODELS.build(energy_head_cfg(in_channels=3, strides=(4,), regression={})).eval()
    for parameter in head.regression.parameters():
        torch.nn.init.normal_(parameter)
    mean = FlipMean(head, VIEWS, SHAPE)
    points = 0.05 * torch.randn(2, 5, 4)
    sign = torch.tensor(SIGNS[flip])
    here = mean.log_density_fn(prepared(mean, maps), BOXES, IMAGES, LABELS)
    there = mean.log_density_fn(
        prepared(mean, mirror(maps, flip)), mirror_boxes(BOXES, flip, SHAPE), IMAGES, LABELS
    )
    (f, step), (other_f, other_step) = here.regress(points), there.regress(points * sign)
    torch.testing.assert_close(other_f, f, **TOLERANCE[torch.float32])
    torch.testing.assert_close(other_step * sign, step, **TOLERANCE[torch.float32])
    assert step.abs().max() > 0.1


@pytest.mark.parametrize("name", ["fcos", "faster_rcnn"])
def test_refined_boxes_of_a_mirror_image_are_mirrored(name):
    """Of the same detections; the detector's own boxes of a mirror image are others."""
    head = dict(roi_shift=-0.5)
    model = build(ebm_cfg(name, head=head, flips=FLIPS, clip_boxes=False))
    inputs = batch(model)["inputs"][:1]
    height, width = inputs.shape[-2:]
    boxes = torch.tensor([[20.0, 16.0, 80.0, 60.0], [40.0, 30.0, 90.0, 100.0]])

    def refined(images, given):
        found = InstanceData(bboxes=given, scores=torch.ones(2), labels=torch.tensor([0, 1]))
        meta = dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0))
        sample = DetDataSample(metainfo=meta, pred_instances=found)
        with torch.no_grad():
            feats = model.read(model.extract_maps(images), images)
            return model.move(feats, [sample], True)[0].pred_instances.bboxes

    here = refined(inputs, boxes)
    for flip in FLIPS:
        shape = (height, width)
        there = refined(mirror(inputs, flip), mirror_boxes(boxes, flip, shape))
        torch.testing.assert_close(mirror_boxes(there, flip, shape), here, atol=2e-3, rtol=0)
    model.flips = ()
    assert (refined(inputs, boxes) - here).abs().max() > 0.05


def test_scores_labels_and_the_number_of_boxes_are_the_detectors():
    model = build(ebm_cfg("fcos", flips="horizontal"))
    assert model.flips == ("horizontal",)
    data = batch(model)
    plain = copy.deepcopy(model)
    plain.flips = ()
    with torch.no_grad():
        found = model.predict(*copy.deepcopy(list(data.values())))
        expected = plain.predict(*data.values())
    for one, other in zip(found, expected):
        assert torch.equal(one.pred_instances.scores, other.pred_instances.scores)
        assert torch.equal(one.pred_instances.labels, other.pred_instances.labels)
        assert not torch.equal(one.pred_instances.bboxes, other.pred_instances.bboxes)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (dict(flips=["upside-down"]), "use some of horizontal, vertical, diagonal"),
        (dict(flips=["vertical", "vertical"]), "each once"),
    ],
)
def test_flips_that_cannot_be_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        build(ebm_cfg("fcos", **settings))


def test_a_learned_proposal_has_no_mean():
    head = types.SimpleNamespace()
    with pytest.raises(ValueError, match="is that of an EBMBBoxHead's f"):
        check_flips(["vertical"], head)
    assert check_flips([], head) == ()
