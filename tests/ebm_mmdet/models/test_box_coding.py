"""encode(decode(u)) = u, decode(0) = reference, and the derivatives in closed form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.functional import jacobian

from ebm_mmdet.models import decode_boxes, encode_boxes

REFERENCE = torch.tensor([[10.25, 20.5, 47.75, 99.0]], dtype=torch.float64)
offset = st.lists(st.floats(-1.5, 1.5), min_size=4, max_size=4)


@given(offset)
def test_encode_inverts_decode(u):
    u = torch.tensor([u], dtype=torch.float64)
    torch.testing.assert_close(encode_boxes(decode_boxes(u, REFERENCE), REFERENCE), u)


def test_offset_zero_is_the_reference_bit_for_bit():
    reference = (torch.rand(1000, 4) - 0.5) * 1e3
    reference[:, 2:] += reference[:, :2].abs() + 1e3
    assert torch.equal(decode_boxes(torch.zeros(1000, 4), reference), reference)
    assert torch.equal(encode_boxes(reference, reference), torch.zeros(1000, 4))


def test_decode_matches_its_definition():
    u = torch.tensor([[0.1, -0.2, 0.3, -0.4]], dtype=torch.float64)
    x1, y1, x2, y2 = REFERENCE[0]
    w0, h0 = x2 - x1, y2 - y1
    cx, cy = (x1 + x2) / 2 + 0.1 * w0, (y1 + y2) / 2 - 0.2 * h0
    w, h = w0 * torch.tensor(0.3).double().exp(), h0 * torch.tensor(-0.4).double().exp()
    expected = torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
    torch.testing.assert_close(decode_boxes(u, REFERENCE)[0], expected)


def test_chain_rule_dx1_du1_is_w0_and_dx1_du3_is_minus_half_w():
    u = torch.tensor([0.1, -0.2, 0.3, -0.4], dtype=torch.float64)
    jac = jacobian(lambda v: decode_boxes(v, REFERENCE[0]), u)
    box = decode_boxes(u, REFERENCE[0])
    w0, h0 = REFERENCE[0, 2:] - REFERENCE[0, :2]
    w, h = box[2:] - box[:2]
    zero = torch.zeros_like(w)
    expected = [[w0, zero, -w / 2, zero], [zero, h0, zero, -h / 2]]
    expected += [[w0, zero, w / 2, zero], [zero, h0, zero, h / 2]]
    torch.testing.assert_close(jac, torch.stack([torch.stack(row) for row in expected]))


@pytest.mark.parametrize("box", [[5.0, 5, 5, 5], [5.0, 5, 3, 2]])
def test_a_reference_without_area_stays_where_it_is(box):
    reference = torch.tensor([box])
    moved = decode_boxes(torch.full((1, 4), 0.5), reference)
    assert torch.equal(moved, reference)
    assert torch.isfinite(encode_boxes(torch.tensor([[0.0, 0, 1, 1]]), reference)).all()
