"""Objects without annotation, annotations without object."""

from __future__ import annotations

import numpy as np

from ebm_mmdet.apis.auditing.presence import certainty, presence

BOXES = np.array([[10, 10, 50, 50], [100, 10, 140, 50.0]])
LABELS = np.array([0, 1])
NONE = np.zeros((0, 4))


def compare(found, scores, classes, others=NONE, boxes=BOXES, labels=LABELS):
    return presence(
        boxes,
        labels,
        others,
        np.array(found, float).reshape(-1, 4),
        np.array(scores, float),
        np.array(classes, int),
    )


def test_support_is_score_times_iou_of_the_same_class():
    found = compare([[10, 10, 50, 50], [100, 10, 140, 50]], [0.9, 0.8], [0, 0])
    assert found.support.tolist() == [0.9, 0.0]
    assert found.match.tolist() == [0, -1]
    assert len(found.missing) == 0  # another class is not a missing object


def test_missing_objects_by_score_and_once():
    boxes = [[200, 10, 240, 50], [202, 12, 242, 52], [300, 10, 340, 50], [10, 100, 50, 140]]
    found = compare(boxes, [0.6, 0.9, 0.5, 0.1], [0, 0, 1, 0])
    assert found.missing.tolist() == [1, 2]  # one of the pair; the last has a low score


def test_nothing_is_missing_in_a_crowd():
    crowd = np.array([[190, 0, 400, 100.0]])
    assert len(compare([[200, 10, 240, 50]], [0.9], [0], crowd).missing) == 0


def test_of_two_objects_in_one_annotation_one_is_missing():
    both = np.array([[10, 10, 90, 50.0]])
    pair = [[10, 10, 52, 50], [55, 10, 90, 50]]
    found = compare(pair, [0.8, 0.9], [0, 0], boxes=both, labels=LABELS[:1])
    assert found.match.tolist() == [0]
    assert found.missing.tolist() == [1]
    twice = [[10, 10, 80, 50], [14, 10, 90, 50]]  # of one object
    found = compare(twice, [0.8, 0.9], [0, 0], boxes=both, labels=LABELS[:1])
    assert len(found.missing) == 0


def test_no_detections_and_no_annotations():
    nothing = compare([], [], [])
    assert nothing.support.tolist() == [0, 0]
    assert nothing.match.tolist() == [-1, -1]
    found = compare([[0, 0, 9, 9]], [0.9], [0], boxes=NONE, labels=np.zeros(0, int))
    assert found.missing.tolist() == [0]
    assert found.support.shape == (0,)


def test_flat_f_is_not_certain():
    boxes = np.tile(BOXES[:1], (3, 1))
    spread = np.array([[0.4], [0.8], [8.0]]).repeat(4, 1)
    np.testing.assert_allclose(certainty(spread, boxes, usual=0.02), [1, 1, 0.1])
