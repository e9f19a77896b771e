"""A comparison counts what one of the two lacks, and compares what both have."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ebm_mmdet.apis.exporting import Comparison

NAMES = ("boxes", "scores", "labels", "number")
ROWS = 4


def outputs(count: int, rows: int = ROWS) -> list[Tensor]:
    """``count`` boxes with falling scores, in ``rows`` rows or more."""
    number = torch.arange(max(count, rows))
    filled = number < count
    boxes = (number[:, None] + torch.tensor([1.0, 2.0, 30.0, 40.0])) * filled[:, None]
    scores = (0.9 - 0.1 * number) * filled
    return [boxes, scores, number.where(filled, -1), torch.tensor(count)]


def compare(found: list[Tensor], right: list[Tensor]) -> Comparison:
    compared = Comparison(NAMES)
    compared.add(found, right)
    return compared


@pytest.mark.parametrize("count", [0, 3, ROWS])
def test_the_same_is_the_same(count):
    compared = compare(outputs(count), outputs(count))
    assert set(compared.worst.values()) == {0.0}
    assert compared.moved == [0.0] * count
    assert (compared.missing, compared.added, compared.beyond_with(0)) == (0, 0, [0])


def test_boxes_without_a_row_are_beyond_it_and_no_difference():
    compared = compare(outputs(ROWS), outputs(7))
    assert set(compared.worst.values()) == {0.0}
    torch.testing.assert_close(compared.beyond[0], torch.tensor([0.5, 0.4, 0.3]))
    assert compared.rows == ROWS
    compared.add(outputs(2), outputs(2))
    assert compared.beyond_with(0.35) == [2, 0]
    assert (compared.missing, compared.added) == (0, 0)
    assert len(compared.moved) == ROWS + 2


def test_boxes_that_one_lacks_are_counted():
    compared = compare(outputs(2), outputs(3))
    compared.add(outputs(1), outputs(6))
    assert (compared.missing, compared.added) == (1 + 3, 0)
    assert compared.beyond_with(0) == [0, 2]
    assert compared.worst == dict(boxes=0.0, scores=0.0, labels=0.0, number=3.0)
    compared = compare(outputs(3), outputs(2))
    assert (compared.missing, compared.added, len(compared.moved)) == (0, 1, 2)
    assert compared.worst["scores"] == 0


def test_differences_are_the_largest_of_all_inputs():
    found = outputs(3)
    found[0][1, 2] += 0.25
    found[1][3] = 0.5  # a row that should be empty
    compared = compare(found, outputs(3))
    compared.add(outputs(3), outputs(3))
    assert compared.worst == dict(boxes=0.25, scores=0.5, labels=0.0, number=0.0)
    assert sorted(compared.moved) == [0, 0, 0, 0, 0, 0.25]


def test_outputs_without_a_number_are_compared_row_by_row():
    compared = Comparison(["boxes", "log_density"])
    boxes = torch.ones(2, 4)
    compared.add([boxes, torch.zeros(2)], [boxes, torch.tensor([0.0, 2.0])])
    assert compared.worst == dict(boxes=0.0, log_density=2.0)
    assert compared.beyond == []
