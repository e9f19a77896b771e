"""Deltas of sides, and conversion of their variances to encoded coordinates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import HorizontalBoxes

from ebm_mmdet.evaluation.gaussian_scores import side_covariance
from ebm_mmdet.models import DeltaXYXYBBoxCoder, encode_boxes, side_std_to_covariance
from tests.tolerances import TOLERANCE


def random_boxes(n, low=2.0, high=80.0):
    corner = 100 * torch.rand(n, 2)
    return torch.cat((corner, corner + low + (high - low) * torch.rand(n, 2)), 1)


def test_deltas_by_hand():
    coder = TASK_UTILS.build(dict(type="DeltaXYXYBBoxCoder"))
    proposal, box = torch.tensor([[10.0, 20, 30, 60]]), torch.tensor([[12.0, 16, 28, 64]])
    expected = torch.tensor([[2 / 20, -4 / 40, -2 / 20, 4 / 40]]) / 0.1
    torch.testing.assert_close(coder.encode(proposal, box), expected)
    torch.testing.assert_close(coder.decode(proposal, expected), box)
    torch.testing.assert_close(
        coder.pixels_per_delta(proposal), torch.tensor([[2.0, 4.0, 2.0, 4.0]])
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_decode_inverts_encode(seed):
    torch.manual_seed(seed)
    # No side of a box is farther from a proposal than 180 px, and no proposal smaller than 2 px.
    coder = DeltaXYXYBBoxCoder((0.1, -0.2, 0.0, 0.3), (0.1, 0.2, 0.5, 1.0), max_shift=90)
    proposals, boxes = random_boxes(8), random_boxes(8, low=0.01)
    deltas = coder.encode(proposals, boxes)
    torch.testing.assert_close(coder.decode(proposals, deltas), boxes, atol=1e-3, rtol=1e-4)
    both = coder.decode(proposals, torch.cat((deltas, torch.zeros(8, 4)), 1))
    torch.testing.assert_close(both[:, :4], coder.decode(proposals, deltas))
    torch.testing.assert_close(both[:, 4:], coder.decode(proposals, torch.zeros(8, 4)))


def test_one_unit_of_delta_moves_a_side_by_its_pixels():
    coder = DeltaXYXYBBoxCoder(target_stds=(0.1, 0.2, 0.3, 0.4))
    proposals = random_boxes(5)
    still = coder.decode(proposals, torch.zeros(5, 4))
    moved = coder.decode(proposals, -torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(5, 4))
    torch.testing.assert_close((still - moved)[:, :2], coder.pixels_per_delta(proposals)[:, :2])
    moved = coder.decode(proposals, torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(5, 4))
    torch.testing.assert_close((moved - still)[:, 2:], coder.pixels_per_delta(proposals)[:, 2:])


def test_clipping_and_box_types():
    coder = DeltaXYXYBBoxCoder(use_box_type=True)
    proposals, deltas = torch.tensor([[10.0, 10, 50, 50]]), torch.tensor([[-9.0, 0.0, 9.0, 9.0]])
    decoded = coder.decode(HorizontalBoxes(proposals), deltas, max_shape=(60, 70))
    assert isinstance(decoded, HorizontalBoxes)
    torch.testing.assert_close(decoded.tensor, torch.tensor([[0.0, 10, 70, 60]]))
    free = DeltaXYXYBBoxCoder(clip_border=False).decode(proposals, deltas, max_shape=(60, 70))
    torch.testing.assert_close(free, torch.tensor([[-26.0, 10, 86, 86]]))
    boxes = HorizontalBoxes(proposals)
    torch.testing.assert_close(coder.encode(boxes, boxes), torch.zeros(1, 4))


def test_slivers_and_wild_predictions_give_ordered_finite_boxes():
    coder = DeltaXYXYBBoxCoder()
    proposals = torch.tensor([[5.0, 5, 5, 5], [5, 5, 6, 6], [5, 5, 5.001, 90], [9, 9, 5, 5]])
    assert torch.isfinite(coder.encode(proposals, random_boxes(4))).all()
    assert (coder.pixels_per_delta(proposals) >= 0.1 - 1e-7).all()
    for scale in (1.0, 1e4, 1e30, torch.inf):
        decoded = coder.decode(proposals, scale * torch.tensor([[1.0, -1, -1, 1]]).expand(4, 4))
        assert torch.isfinite(decoded).all()
        assert (decoded[:, 2:] >= decoded[:, :2]).all()
    crossed = coder.decode(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[8.0, 0, -8, 0]]))
    torch.testing.assert_close(crossed, torch.tensor([[5.0, 0, 5, 10]]))


def test_no_proposals():
    coder = DeltaXYXYBBoxCoder()
    assert coder.decode(torch.zeros(0, 4), torch.zeros(0, 12)).shape == (0, 12)
    assert coder.encode(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)
    assert side_std_to_covariance(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4, 4)


def test_bad_stds_are_refused():
    with pytest.raises(ValueError, match="positive"):
        DeltaXYXYBBoxCoder(target_stds=(0.1, 0.1, 0.0, 0.1))


def test_encoded_covariance_gives_the_sides_back():
    boxes, std = random_boxes(6), 0.1 + 3 * torch.rand(6, 4)
    covariance = side_std_to_covariance(boxes, std)
    found = side_covariance(boxes.numpy(), covariance.double().numpy())
    expected = np.stack([np.diag(row) for row in std.double().square().numpy()])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_encoded_covariance_is_that_of_samples():
    torch.manual_seed(0)
    box, std = torch.tensor([[10.0, 20, 60, 50]]), torch.tensor([[0.5, 1.0, 1.5, 0.25]])
    sides = box + std * torch.randn(40000, 4)
    u = encode_boxes(sides, box)
    torch.testing.assert_close(
        torch.cov(u.T), side_std_to_covariance(box, std)[0], rtol=0.05, atol=2e-5
    )


def test_encoded_covariance_knows_no_scale_and_no_bounds():
    boxes, std = random_boxes(3), 1 + torch.rand(3, 4)
    torch.testing.assert_close(
        side_std_to_covariance(4 * boxes, 4 * std),
        side_std_to_covariance(boxes, std),
        **TOLERANCE[torch.float32],
    )
    sliver = torch.tensor([[5.0, 5, 5, 9]])
    assert torch.isfinite(side_std_to_covariance(sliver, torch.ones(1, 4))).all()
