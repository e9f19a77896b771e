"""Boxes of maskrcnn-benchmark, whose width is x2 - x1 + 1."""

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.structures import InstanceData

from ebm_mmdet.models import EBMBBoxHead
from ebm_mmdet.models.inclusive_boxes import (
    rescale_inclusive,
    to_last_pixels,
    undo_rescale_inclusive,
)

HALF_OPEN = torch.tensor([[2.0, 3.0, 30.0, 41.0], [5.0, 5.0, 5.5, 9.0], [4.0, 4.0, 4.0, 4.0]])


def test_pooled_corners_are_one_pixel_shorter_and_never_inverted():
    """(x1, y1, max(x2 - 1, x1), max(y2 - 1, y1))"""
    expected = torch.tensor([[2.0, 3.0, 29.0, 40.0], [5.0, 5.0, 5.0, 8.0], [4.0, 4.0, 4.0, 4.0]])
    assert torch.equal(to_last_pixels(HALF_OPEN), expected)
    assert to_last_pixels(HALF_OPEN[:0]).shape == (0, 4)


def test_way_back_divides_inclusive_corners_and_adds_the_pixel_afterwards():
    """x1 / r, y1 / r, (x2 - 1) / r + 1, (y2 - 1) / r + 1"""
    scale = torch.tensor([1.6, 1.5, 1.6, 1.5])
    found = rescale_inclusive(HALF_OPEN / scale, scale)
    inclusive = HALF_OPEN - torch.tensor([0.0, 0, 1, 1])
    torch.testing.assert_close(found, inclusive / scale + torch.tensor([0.0, 0, 1, 1]))


def test_extractor_reads_the_level_of_the_whole_box_and_pools_the_shorter_one():
    settings = dict(
        roi_layer=dict(type="RoIAlign", output_size=2, sampling_ratio=2, aligned=False),
        out_channels=3,
        featmap_strides=[4, 8],
        finest_scale=16,
    )
    usual = MODELS.build(dict(type="SingleRoIExtractor", **settings))
    ours = MODELS.build(dict(type="InclusiveRoIExtractor", **settings))
    feats = [torch.randn(1, 3, 16, 16), torch.randn(1, 3, 8, 8)]
    # 32 px: level 1; one pixel less would be level 0.
    rois = torch.tensor([[0.0, 0.0, 0.0, 32.0, 32.0], [0.0, 3.0, 4.0, 21.0, 19.0]])
    shorter = torch.cat([rois[:, :1], to_last_pixels(rois[:, 1:])], 1)
    expected = torch.cat(
        [usual.roi_layers[1](feats[1], shorter[:1]), usual.roi_layers[0](feats[0], shorter[1:])]
    )
    assert torch.equal(ours(feats, rois), expected)
    assert torch.equal(ours(feats[:1], rois), usual.roi_layers[0](feats[0], shorter))
    assert ours(feats, rois[:0]).shape == (0, 3, 2, 2)


@pytest.mark.parametrize("level_rule", ["assign", "concat"])
def test_energy_of_a_box_is_that_of_its_shorter_one(level_rule):
    settings = dict(
        num_classes=2,
        objective=dict(
            type="NCEObjective",
            num_noise=3,
            noise=dict(type="GaussianMixtureNoise", sigmas=[0.1], dim=4),
        ),
        in_channels=4,
        strides=(4, 8),
        level_rule=level_rule,
        finest_scale=16,
        fc_channels=(8,),
    )
    torch.manual_seed(0)
    usual, legacy = EBMBBoxHead(**settings), EBMBBoxHead(**settings, legacy_plus_one=True)
    legacy.load_state_dict(usual.state_dict())
    feats = legacy.prepare([torch.randn(1, 4, 16, 16), torch.randn(1, 4, 8, 8)])
    boxes = torch.tensor([[2.0, 3.0, 20.0, 23.0], [1.0, 1.0, 50.0, 44.0]])
    index, labels = torch.zeros(2, dtype=torch.long), torch.tensor([0, 1])
    assert torch.equal(usual.assign_levels(boxes), usual.assign_levels(to_last_pixels(boxes)))
    torch.testing.assert_close(
        legacy.log_density(feats, boxes[:, None], index, labels),
        usual.log_density(feats, to_last_pixels(boxes)[:, None], index, labels),
    )
    # The closed-form gradient of the climb is that of the same function.
    fn = legacy.log_density_fn(feats, boxes, index, labels)
    y = (0.01 * torch.randn(2, 1, 4)).requires_grad_()
    (gradient,) = torch.autograd.grad(fn(y).sum(), y)
    eps = 1e-3
    for k in range(4):
        step = eps * torch.eye(4)[k]
        difference = (fn(y.detach() + step) - fn(y.detach() - step)).squeeze(1) / (2 * eps)
        torch.testing.assert_close(gradient[:, 0, k], difference, rtol=0.05, atol=0.02)


def test_samples_move_with_their_boxes():
    from ebm_mmdet.models.detectors.refined_boxes import add_last_pixel

    scale = torch.full((4,), 2.0)
    instances = InstanceData(bboxes=HALF_OPEN.clone(), box_samples=HALF_OPEN[:, None].clone())
    add_last_pixel(instances, scale)
    moved = HALF_OPEN + torch.tensor([0.0, 0.0, 0.5, 0.5])
    assert torch.equal(instances.bboxes, moved)
    assert torch.equal(instances.box_samples, moved[:, None])


def test_boxes_of_the_original_image_come_back_to_the_network_as_they_were():
    """Times r: (x2 - 1) r + 1."""
    scale = torch.tensor([1.6, 0.5, 1.6, 0.5], dtype=torch.float64)
    boxes = HALF_OPEN.double()
    network = undo_rescale_inclusive(boxes, scale) * scale
    last = torch.tensor([0.0, 0, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(network, (boxes - last) * scale + last)
    torch.testing.assert_close(rescale_inclusive(network / scale, scale), boxes)
