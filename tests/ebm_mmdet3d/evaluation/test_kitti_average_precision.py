"""KITTI's average precision: cases computed by hand, the rules one by one, and mmdet3d's own."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

pytest.importorskip("numba")

from ebm_mmdet3d.evaluation import kitti_average_precision
from ebm_mmdet3d.evaluation.kitti_average_precision import kitti_precision
from tests.ebm_mmdet3d.evaluation.kitti_frames import annotations, detected, random_scenes

HIGH = (0.5, 0.7, 0.75, 0.8, 0.85, 0.9)
ALL = ("bbox", "bev", "3d")


def car_result(truth, found, thresholds=(0.7,), metrics=("3d",)):
    return kitti_precision(truth, found, ["Car"], thresholds, metrics)["Car"]


def curve(truth, found, metric="3d", threshold=0.7, difficulty=0, class_name="Car"):
    """p_0 ... p_40 of one setting."""
    result = kitti_precision(truth, found, [class_name], [threshold], [metric])
    return result[class_name].precision[0, difficulty, 0]


def nothing() -> dict:
    return detected(annotations([]), 0)


# By hand ------------------------------------------------------------------------------------------


def test_average_precision_of_two_cars_by_hand():
    """Hits at 0.9 and 0.7, a false detection at 0.8: precision 1 at the first, 2/3 at the second.

    Two objects give two scores: p_0 = 1, p_1 = 2/3, and the other 39 are 0.
    """
    truth = annotations(["Car", "Car"])
    found = detected(truth, [0.9, 0.8, 0.7], [0, 0, 1])
    found["location"][1, 0] += 30
    result = car_result([truth], [found])
    assert result.precision[0, 0, 0].tolist() == pytest.approx([1, 2 / 3] + [0] * 39)
    assert result.recall[0, 0, 0, :2].tolist() == pytest.approx([1, 1])  # the best at or above
    assert result.average_precision(11)[0, 0, 0] == pytest.approx(100 / 11)
    assert result.average_precision(40)[0, 0, 0] == pytest.approx(100 * (2 / 3) / 40)
    assert result.average_precision(41)[0, 0, 0] == pytest.approx(100 * (5 / 3) / 41)


def test_average_precision_of_half_of_eighty_cars_by_hand():
    """Of 80 cars the first 40 are found, and there is one false detection above every hit.

    Recalls 2/80, 4/80, ... are those nearest to 1/40, 2/40, ...; the k-th hit has precision
    k / (k + 1), so the last one, of recall 1/2, gives 40/41 to all positions up to 20 = 40 · 1/2.
    """
    truth = annotations(["Car"] * 80)
    found = detected(truth, np.r_[1.0, np.linspace(0.9, 0.1, 40)], [0, *range(40)])
    found["location"][0, 0] += 30
    result = car_result([truth], [found])
    assert result.precision[0, 0, 0] == pytest.approx(np.where(np.arange(41) <= 20, 40 / 41, 0))
    assert result.average_precision(11)[0, 0, 0] == pytest.approx(100 * 6 / 11 * 40 / 41)
    assert result.average_precision(40)[0, 0, 0] == pytest.approx(100 * 20 / 40 * 40 / 41)
    assert result.average_precision(41)[0, 0, 0] == pytest.approx(100 * 21 / 41 * 40 / 41)


@pytest.mark.parametrize("metric", ALL)
def test_iou_must_exceed_the_threshold(metric):
    """Boxes of length 3 shifted by 1 have IoU 2/4, exactly."""
    truth = annotations(["Car"], dimensions=[[3.0, 1.5, 2.0]], bbox=[[0.0, 0, 3, 100]])
    found = detected(truth, 0.5, along=1.0, bbox=[[1.0, 0, 4, 100]])
    assert curve([truth], [found], metric, 0.5).max() == 0
    assert curve([truth], [found], metric, 0.4999).max() == 1


@pytest.mark.parametrize("shift", [0.1, 0.3, 0.5])
def test_thresholds_separate_shifted_cars(shift):
    """A car of length 4 shifted by s along itself has IoU (4 - s) / (4 + s), whatever its yaw."""
    truth = annotations(["Car"] * 50, rotation_y=np.linspace(-3, 3, 50))
    result = car_result([truth], [detected(truth, 0.9, along=shift)], HIGH, ("bev", "3d"))
    expected = [100 if (4 - shift) / (4 + shift) > t else 0 for t in HIGH]
    for positions in (11, 40, 41):
        for metric in range(2):
            found = result.average_precision(positions)[metric, 0]
            assert found.tolist() == pytest.approx(expected)


def test_higher_boxes_count_in_3d_only():
    truth = annotations(["Car"] * 50)
    found = detected(truth, 0.9)
    found["location"][:, 1] -= 0.5  # of a height of 1.5: IoU 1/2
    result = car_result([truth], [found], (0.4, 0.6), ("bev", "3d"))
    assert result.average_precision(40)[:, 0].tolist() == [[100, 100], [100, 0]]


# Published behaviour ------------------------------------------------------------------------------


@pytest.mark.parametrize("num_frames", [1, 13])
def test_ground_truth_against_itself_is_100_for_all_thresholds(num_frames):
    rng = np.random.default_rng(0)
    truth = [
        annotations(
            ["Car"] * 50,
            rotation_y=rng.uniform(-4, 4, 50),
            dimensions=rng.uniform(1, 5, (50, 3)),
        )
        for _ in range(num_frames)
    ]
    found = [detected(frame, rng.uniform(0, 1, 50)) for frame in truth]
    result = car_result(truth, found, HIGH, ALL)
    for positions in (11, 40, 41):
        assert (result.average_precision(positions) == 100).all()
    assert result.num_objects.tolist() == [50 * num_frames] * 3


@pytest.mark.parametrize("seed", range(3))
def test_ap41_is_ap40_and_the_precision_at_recall_zero(seed):
    """AP41 = (40 AP40 + 100 p_0) / 41."""
    result = car_result(*random_scenes(seed), HIGH, ALL)
    expected = (40 * result.average_precision(40) + 100 * result.precision[..., 0]) / 41
    np.testing.assert_allclose(result.average_precision(41), expected, atol=1e-12)
    assert 5 < result.average_precision(41)[2, 2, 0] < 95  # otherwise this says little


def test_one_more_of_400_cars_can_be_worth_a_recall_bin():
    """Recall 390/400 reaches position 39, recall 391/400 counts as position 40 of 40."""
    truth = annotations(["Car"] * 400)
    found = [detected(truth, 0.9, range(n)) for n in (390, 391)]
    ap40 = [car_result([truth], [f]).average_precision(40)[0, 0, 0] for f in found]
    assert ap40 == pytest.approx([97.5, 100])
    ap41 = [car_result([truth], [f]).average_precision(41)[0, 0, 0] for f in found]
    assert ap41 == pytest.approx([100 * 40 / 41, 100])


@pytest.mark.parametrize("n", [1, 10, 40, 41, 42, 100, 101, 1000])
def test_few_cars_cannot_reach_100(n):
    truth = annotations(["Car"] * n)
    found = detected(truth, np.linspace(0.9, 0.1, n))
    result = car_result([truth], [found])
    assert result.average_precision(41)[0, 0, 0] == pytest.approx(100 * min(n, 41) / 41)
    assert result.average_precision(40)[0, 0, 0] == pytest.approx(100 * min(n - 1, 40) / 40)


def test_precision_never_rises_with_recall():
    result = car_result(*random_scenes(5), HIGH, ALL)
    assert (np.diff(result.precision, axis=-1) <= 0).all()
    assert (result.average_precision(40)[:, :, 0] >= result.average_precision(40)[:, :, -1]).all()


def test_the_second_detection_of_a_car_is_false():
    truth = annotations(["Car"])
    found = detected(truth, [0.9, 0.8], [0, 0])
    assert curve([truth], [found])[0] == 1  # at 0.9 the other is not there yet
    found = detected(truth, [0.9, 0.9], [0, 0])
    assert curve([truth], [found])[0] == pytest.approx(1 / 2)


def test_a_car_takes_the_detection_that_it_overlaps_most():
    """Two cars; the better box of the first may not be left over as a false detection."""
    truth = annotations(["Car"] * 2, location=[[0, 1.7, 10], [1.0, 1.7, 10]])
    found = detected(truth, [0.8, 0.8])
    # Both detections exceed 0.5 with both cars, but each is a copy of its own.
    assert curve([truth], [found], threshold=0.5)[:2].tolist() == [1, 1]
    swapped = {key: value[::-1].copy() for key, value in found.items()}
    assert curve([truth], [swapped], threshold=0.5)[:2].tolist() == [1, 1]


# Rules --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (dict(), [1, 1, 1]),
        (dict(occluded=[1]), [0, 1, 1]),
        (dict(occluded=[2]), [0, 0, 1]),
        (dict(occluded=[3]), [0, 0, 0]),
        (dict(truncated=[0.15]), [1, 1, 1]),
        (dict(truncated=[0.16]), [0, 1, 1]),
        (dict(truncated=[0.3]), [0, 1, 1]),
        (dict(truncated=[0.4]), [0, 0, 1]),
        (dict(truncated=[0.51]), [0, 0, 0]),
        (dict(bbox=[[0, 10, 50, 50.1]]), [1, 1, 1]),
        (dict(bbox=[[0, 10, 50, 50]]), [0, 1, 1]),
        (dict(bbox=[[0, 10, 50, 35]]), [0, 0, 0]),
        (dict(bbox=[[0, 10, 50, 35.1]]), [0, 1, 1]),
    ],
)
def test_difficulty(change, counts):
    truth = [annotations(["Car"], **change)]
    result = car_result(truth, [nothing()])
    assert result.num_objects.tolist() == counts
    # An object that does not count is neutral: neither missed nor, if found, false.
    standard = annotations(["Car"] * 2)
    both = [standard, *truth]
    expected = 2 / 2 if counts[0] else 1
    found = [detected(standard, 0.5), detected(truth[0], 0.5)]
    result = car_result(both, found)
    assert result.precision[0, 0, 0, 0] == expected
    assert result.recall[0, 0, 0, 0] == 1
    result = car_result(both, [detected(standard, 0.5), nothing()])
    assert result.recall[0, 0, 0, 0] == pytest.approx(2 / (2 + counts[0]))


@pytest.mark.parametrize(
    ("name", "neutral"), [("Car", "Van"), ("Pedestrian", "Person_sitting"), ("Cyclist", None)]
)
def test_neighbouring_classes_are_neutral(name, neutral):
    others = ["Van", "Person_sitting", "Truck", "Tram", "Misc", "Car", "Cyclist", "Pedestrian"]
    for other in others:
        if other == name:
            continue
        truth = annotations([name, other])
        found = detected(truth, 0.5, name=[name, name])
        first = curve([truth], [found], threshold=0.5, class_name=name)[0]
        assert first == (1 if other == neutral else 0.5), other
        # Not found, it is not missed either, and alone it is no object.
        result = kitti_precision([truth], [detected(truth, 0.5, [0])], [name], [0.5])[name]
        assert result.recall[1, 0, 0, 0] == 1
        assert result.num_objects[0] == 1


def test_dont_care_absorbs_in_the_image_only():
    truth = annotations(["Car", "DontCare"])
    truth["dimensions"][1], truth["location"][1] = -1, -1000
    found = detected(annotations(["Car", "Car"]), 0.5)
    assert curve([truth], [found], "bbox")[0] == 1
    assert curve([truth], [found], "bev")[0] == 0.5
    assert curve([truth], [found], "3d")[0] == 0.5
    # It is the share of the detection inside the region that counts, not the IoU.
    wide = truth["bbox"].copy()
    wide[1] = [150, 0, 10000, 1000]
    assert curve([dict(truth, bbox=wide)], [found], "bbox")[0] == 1
    partly = found["bbox"].copy()
    partly[1] = [100, 0, 200, 100]  # half of it in [150, ...]
    found["bbox"] = partly
    assert curve([dict(truth, bbox=wide)], [found], "bbox", 0.45)[0] == 1
    assert curve([dict(truth, bbox=wide)], [found], "bbox", 0.55)[0] == 0.5


def test_dont_care_does_not_take_what_found_an_object():
    truth = annotations(["Car", "Car", "DontCare"])
    truth["bbox"][2] = [0, 0, 100, 100]  # around the first car
    found = detected(annotations(["Car", "Car", "Car"]), 0.5)
    found["bbox"][2] += 1000
    assert curve([truth], [found], "bbox")[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize("height", [24.9, 30.0, 40.0])
def test_low_detections_are_neutral(height):
    """Below 40 px (easy) or 25 px (else) a detection is not false, and excuses what it matches."""
    low = np.array([[0, 0, 50, height], [0, 0, 50, height]])
    truth = annotations(["Car", "Car"])
    found = detected(truth, [0.9, 0.9], [0, 1])
    stray = detected(truth, [0.9], [1], bbox=low[:1])
    stray["location"] = stray["location"] + 50
    both = {key: np.concatenate((found[key], stray[key])) for key in found}
    for difficulty, limit in enumerate((40, 25, 25)):
        neutral = height < limit
        expected = 1 if neutral else 2 / 3
        assert curve([truth], [both], difficulty=difficulty)[0] == pytest.approx(expected)
        found["bbox"][1] = low[1]
        result = car_result([truth], [found])
        assert result.recall[0, difficulty, 0, 0] == 1
        assert (result.precision[0, difficulty, 0] > 0).sum() == (1 if neutral else 2)


def test_low_detection_of_another_class_excuses_too():
    truth = annotations(["Car", "Car"])
    found = detected(truth, [0.9, 0.9], name=["Car", "Pedestrian"])
    assert car_result([truth], [found]).recall[0, 0, 0, 0] == 0.5
    found["bbox"][1] = [0, 0, 50, 20]
    assert car_result([truth], [found]).recall[0, 0, 0, 0] == 1


# Every input has a defined result -----------------------------------------------------------------


def test_empty_frames_and_no_frames():
    truth, found = annotations(["Car"] * 50), nothing()
    empty = annotations([])
    assert np.isnan(car_result([], []).average_precision()).all()
    assert np.isnan(car_result([empty], [nothing()], HIGH, ALL).average_precision()).all()
    assert np.isnan(car_result([empty], [detected(truth, 0.5)]).average_precision()).all()
    assert (car_result([truth], [found], HIGH, ALL).average_precision() == 0).all()
    full = car_result([empty, truth, empty], [found, detected(truth, 0.5), found], HIGH, ALL)
    assert (full.average_precision() == 100).all()


def test_scores_and_boxes_that_are_not_numbers():
    truth = annotations(["Car"] * 50)
    found = detected(truth, [0.5] * 50 + [np.nan], [*range(50), 0])
    assert car_result([truth], [found]).average_precision() == pytest.approx(
        np.full((1, 3, 1), 100)
    )
    found["score"][-1] = 0.5
    found["location"][-1] = np.nan
    ap = car_result([truth], [found], metrics=ALL).average_precision()[:, 0, 0]
    assert ap == pytest.approx([100 * 50 / 51] * 3)
    found["bbox"][-1] = np.nan
    assert car_result([truth], [found], metrics=("bbox",)).precision[0, 0, 0, 0] == 50 / 51


def test_only_the_order_of_scores_counts():
    truth, found = random_scenes(2)
    expected = car_result(truth, found, HIGH, ALL).precision
    changed = [dict(frame, score=np.exp(3 * frame["score"]) - 7) for frame in found]
    np.testing.assert_array_equal(car_result(truth, changed, HIGH, ALL).precision, expected)
    order = np.random.default_rng(0).permutation(len(truth))
    shuffled = [truth[k] for k in order], [found[k] for k in order]
    np.testing.assert_array_equal(car_result(*shuffled, HIGH, ALL).precision, expected)


@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_memory_limit_changes_nothing(monkeypatch, at_once):
    scenes = random_scenes(4)
    expected = car_result(*scenes, HIGH, ALL).precision
    monkeypatch.setattr(kitti_average_precision, "_PAIRS_AT_ONCE", at_once)
    np.testing.assert_array_equal(car_result(*scenes, HIGH, ALL).precision, expected)


def test_messages():
    truth, found = annotations(["Car", "Car"]), detected(annotations(["Car", "Car"]), 0.5)
    with pytest.raises(ValueError, match="2 frames of ground truth, but 1 of detections"):
        car_result([truth, truth], [found])
    with pytest.raises(ValueError, match=r"IoU threshold 70; expected"):
        car_result([truth], [found], (70,))
    with pytest.raises(ValueError, match=r"metric '2d'"):
        car_result([truth], [found], metrics=("2d",))
    with pytest.raises(ValueError, match="positions=12"):
        car_result([truth], [found]).average_precision(12)
    with pytest.raises(ValueError, match=r"score of frame 1 has shape \(1,\); expected \(2\)"):
        car_result([truth] * 2, [found, dict(found, score=[0.5])])
    with pytest.raises(ValueError, match=r"bbox of frame 0 has shape \(2, 5\); expected \(2, 4\)"):
        car_result([dict(truth, bbox=np.zeros((2, 5)))], [found])


# Another implementation ---------------------------------------------------------------------------


@pytest.fixture
def mmdet3d_evaluation(monkeypatch):
    """mmdet3d's evaluation with its two GPU functions replaced."""
    pytest.importorskip("mmdet3d")
    module = importlib.import_module("mmdet3d.evaluation.functional.kitti_utils.eval")
    monkeypatch.setattr(
        module, "bev_box_overlap", kitti_average_precision.bev_overlaps_camera, raising=True
    )
    monkeypatch.setattr(
        module, "d3_box_overlap", kitti_average_precision.iou_3d_camera, raising=True
    )
    return module


@pytest.mark.parametrize("seed", range(2))
def test_agrees_with_mmdet3d(mmdet3d_evaluation, seed):
    truth, found = random_scenes(seed, num_frames=120)
    classes, thresholds = ["Car", "Pedestrian", "Cyclist"], [0.25, 0.5, 0.7, 0.8, 0.9]
    ours = kitti_precision(truth, found, classes, thresholds, ALL)
    for metric in range(3):
        theirs = mmdet3d_evaluation.eval_class(
            truth,
            found,
            [0, 1, 2],
            [0, 1, 2],
            metric,
            np.broadcast_to(np.array(thresholds)[:, None, None], (len(thresholds), 3, 3)),
        )
        for c, name in enumerate(classes):
            assert ours[name].num_objects.min() > 0
            np.testing.assert_allclose(
                ours[name].precision[metric], theirs["precision"][c], atol=1e-12
            )
            np.testing.assert_allclose(ours[name].recall[metric], theirs["recall"][c], atol=1e-12)
        ap = mmdet3d_evaluation.get_mAP40(theirs["precision"])[0]
        np.testing.assert_allclose(ours["Car"].average_precision(40)[metric], ap, atol=1e-9)
        assert 5 < ap.mean() < 95  # otherwise this compares little
