"""The climb and the sides, where f is a Gaussian whose answers are known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ebm_mmdet.apis.auditing.evidence import box_evidence, usual_step_size
from ebm_mmdet.models.box_coding import decode_boxes

TRUE = torch.tensor([[20.0, 30.0, 60.0, 90.0], [100.0, 40.0, 150.0, 70.0]])
SPREAD = torch.tensor([0.8, 1.2, 1.6, 2.0])
LIMITS = torch.tensor([200.0, 160.0])


class GaussianHead:
    """f(box) = -½ Σ ((side - true side) / spread)² for two objects, as a head."""

    objective = SimpleNamespace(noise=SimpleNamespace(sigmas=[0.03, 0.1]))

    def log_density_fn(self, feats, reference, batch_index, labels):
        def fn(offsets):
            boxes = decode_boxes(offsets, reference[:, None])
            return self.evaluate(feats, boxes, batch_index, labels)

        fn.reference, fn.feats = reference, feats
        return fn

    def evaluate(self, feats, boxes, batch_index, labels):
        z = (boxes - TRUE[labels][:, None]) / SPREAD
        return (-0.5 * z.square().sum(-1)).masked_fill(~boxes.isfinite().all(-1), -torch.inf)


def look(boxes, limits=LIMITS, **more):
    return box_evidence(GaussianHead(), [], boxes, torch.tensor([0, 1]), limits, **more)


def test_usual_step_is_the_square_of_the_narrowest_noise():
    assert usual_step_size(GaussianHead()) == pytest.approx(9e-4)


def test_a_climb_reaches_the_mode_and_knows_by_how_much():
    wrong = TRUE + torch.tensor([[6.0, 0, 0, 0], [0, 0, -5.0, 4.0]])
    found = look(wrong, num_steps=60)
    torch.testing.assert_close(found.proposal, TRUE, atol=0.3, rtol=0)
    expected = 0.5 * ((wrong - TRUE) / SPREAD).square()
    torch.testing.assert_close(found.log_ratio, expected.sum(1), atol=0.05, rtol=0.01)
    torch.testing.assert_close(found.side_evidence, expected, atol=0.3, rtol=0.05)
    torch.testing.assert_close(found.side_shift, TRUE - wrong, atol=0.3, rtol=0)
    # The grid is coarse beside the narrowest spread.
    torch.testing.assert_close(found.side_spread, SPREAD.expand(2, 4), atol=0.0, rtol=0.1)


def test_a_box_at_the_mode_stays_bit_for_bit():
    found = look(TRUE.clone())
    assert torch.equal(found.proposal, TRUE)
    assert torch.equal(found.log_ratio, torch.zeros(2))
    assert torch.equal(found.side_evidence, torch.zeros(2, 4))


def test_the_proposal_stays_inside_the_image():
    limits = torch.tensor([140.0, 80.0])  # the modes end outside
    found = look(TRUE + torch.tensor([0.0, 0.0, -4.0, -12.0]), limits)
    assert (found.proposal[:, 2] <= 140).all()
    assert (found.proposal[:, 3] <= 80).all()
    assert (found.log_ratio >= 0).all()


def test_boxes_without_area_or_outside_have_a_result():
    odd = torch.tensor([[20.0, 30.0, 20.0, 30.0], [500.0, 500.0, 520.0, 510.0]])
    found = look(odd)
    assert found.proposal.isfinite().all()
    assert (found.log_ratio >= 0).all()
    none = box_evidence(
        GaussianHead(), [], torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), LIMITS
    )
    assert none.proposal.shape == (0, 4)


def test_boxes_do_not_influence_each_other():
    boxes = TRUE + torch.tensor([[3.0, 0, 0, 0], [0, 0, -5.0, 4.0]])
    both = look(boxes)
    for k in range(2):
        one = box_evidence(GaussianHead(), [], boxes[k : k + 1], torch.tensor([k]), LIMITS)
        for a, b in zip(one, both):
            torch.testing.assert_close(a[0], b[k])
