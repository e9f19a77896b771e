"""Average precision and residuals in 3D against what can be said without a program."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch

if not find_spec("mmdet3d"):
    pytest.skip("3D needs mmdet3d", allow_module_level=True)

from ebm_mmdet3d.apis.fitting.frame_set import FrameSet, Truth3D
from ebm_mmdet3d.apis.fitting.matching import HEADINGS, MatchedFrames, matched_residuals_3d
from ebm_mmdet3d.apis.fitting.rivals import FixedOffset3D
from ebm_mmdet3d.models.box_frame import turned

CAR = np.array([10.0, 2.0, -1.7, 4.0, 2.0, 1.5, 0.4])
NAMES = list(HEADINGS)


def truth(*boxes, labels=None, neutral=None) -> Truth3D:
    labels = np.zeros(len(boxes), int) if labels is None else np.array(labels)
    neutral = np.zeros(len(boxes), bool) if neutral is None else np.array(neutral)
    return Truth3D(np.array(boxes).reshape(-1, 7), labels, neutral)


def record(box, score=0.9, label=0) -> dict:
    return dict(box=list(box), score=score, label=label)


def metrics(frames, detections, classes=1, weights=None) -> dict:
    found = MatchedFrames(frames, detections, classes).metrics(weights)
    return dict(zip(NAMES, found))


def test_perfect_boxes_have_ap_1_and_a_raised_one_only_from_above():
    found = metrics([truth(CAR)], [[record(CAR)]])
    assert all(value == pytest.approx(1.0) for value in found.values())
    # A quarter of its height higher: IoU 0.75 / 1.25 = 0.6 in 3D, 1 from above.
    raised = CAR + np.array([0, 0, 1.5 / 4, 0, 0, 0, 0])
    found = metrics([truth(CAR)], [[record(raised)]])
    assert found["IoU_TP"] == pytest.approx(0.6)
    assert found["AP"] == pytest.approx(0.3)  # of 0.5, 0.55, ..., 0.95 the first three
    assert (found["AP70"], found["BEV_AP"]) == (0, 1)


def test_a_second_detection_of_an_object_is_wrong_and_one_of_a_neutral_object_is_not():
    other = CAR + np.array([10, 0, 0, 0, 0, 0, 0])
    frames = [truth(CAR, other)]
    # Hit, duplicate, hit: precision 1 up to recall 1/2, then 2/3.
    twice = [record(CAR, 0.9), record(CAR, 0.8), record(other, 0.7)]
    expected = (51 * 1 + 50 * 2 / 3) / 101
    assert metrics(frames, [twice])["AP90"] == pytest.approx(expected)
    neutral = [truth(CAR, other, neutral=[False, True])]
    assert metrics(neutral, [[record(other, 0.9), record(CAR, 0.8)]])["AP90"] == pytest.approx(1)
    van = [truth(CAR, other, labels=[0, -1], neutral=[False, True])]
    assert metrics(van, [[record(other, 0.9), record(CAR, 0.8)]])["AP90"] == pytest.approx(1)
    # A neutral object of another class of the detector excuses nothing.
    walker = [truth(CAR, other, labels=[0, 1], neutral=[False, True])]
    found = metrics(walker, [[record(other, 0.9), record(CAR, 0.8)]], classes=2)
    assert found["AP90"] == pytest.approx(0.5)


def test_classes_are_matched_apart_and_averaged():
    frames = [truth(CAR, CAR + 5, labels=[0, 1])]
    both = [record(CAR, 0.9, 0), record(CAR + 5, 0.9, 0)]
    assert metrics(frames, [both], classes=3)["AP"] == pytest.approx(0.5)


def test_weights_are_copies_and_nothing_annotated_is_nan():
    rng = np.random.default_rng(0)
    frames = [truth(CAR, CAR + 8) for _ in range(4)]
    found = [[record(CAR + 0.2 * rng.normal(size=7), s) for s in rng.random(3)] for _ in range(4)]
    weights = np.array([2, 0, 1, 3])
    rows = np.repeat(np.arange(4), weights)
    copies = metrics([frames[i] for i in rows], [found[i] for i in rows])
    assert metrics(frames, found, weights=weights) == pytest.approx(copies)
    nothing = metrics([truth()], [[record(CAR)]])
    assert all(np.isnan(value) for value in nothing.values())


def test_residuals_are_in_the_frame_of_the_box_and_a_flip_is_no_error():
    along_and_across = np.array([0.3, -0.1, 0.05, 0.2, 0.1, -0.1, 0.05])
    cos, sin = np.cos(CAR[6]), np.sin(CAR[6])
    moved = CAR + along_and_across
    moved[:2] += np.array([cos * 0.3 + sin * 0.1, sin * 0.3 - cos * 0.1]) - [0.3, -0.1]
    found = matched_residuals_3d(truth(moved), [record(CAR), record(CAR + 20, 0.8)])
    torch.testing.assert_close(found, torch.from_numpy(along_and_across).float()[None])
    backwards = CAR.copy()
    backwards[6] += np.pi
    (row,) = matched_residuals_3d(truth(CAR), [record(backwards)])
    assert row.abs().max() < 1e-6
    assert len(matched_residuals_3d(truth(CAR), [record(CAR, 0.2)])) == 0
    assert len(matched_residuals_3d(truth(), [record(CAR)])) == 0

    class Fn:
        reference = torch.from_numpy(CAR).float()[None]

    offset = FixedOffset3D(torch.from_numpy(along_and_across).float())
    result = Fn.reference + offset(Fn, torch.zeros(1, 7)).y
    torch.testing.assert_close(result, torch.from_numpy(moved).float()[None])


def test_turning_there_and_back_is_the_identity():
    generator = torch.Generator().manual_seed(0)
    offsets, yaw = torch.randn(5, 7, generator=generator), torch.randn(5, generator=generator)
    torch.testing.assert_close(turned(turned(offsets, yaw), -yaw), offsets)
    quarter = turned(torch.eye(7)[0], torch.tensor(torch.pi / 2))
    torch.testing.assert_close(quarter, torch.eye(7)[1], atol=1e-6, rtol=0)


def test_which_objects_are_neutral():
    class Given:
        def get_data_info(self, index):
            boxes = np.stack([CAR, CAR, CAR + 100, CAR, CAR])
            labels = np.array([0, 4, 0, 0, 0])
            found = dict(gt_bboxes_3d=boxes, gt_labels_3d=labels)
            extra = dict(difficulty=[0, 0, 0, -1, 2], num_lidar_pts=[5, 5, 5, 5, 0])
            return dict(ann_info=found | extra)

    found = FrameSet(Given(), [0], 3, [0, -40, -3, 70, 40, 1]).truth(0)
    assert found.neutral.tolist() == [False, True, True, True, True]
    assert found.labels.tolist() == [0, -1, 0, 0, 0]
