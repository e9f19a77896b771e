"""Generated tasks: reproducible, drawn from the density they state, and readable from pixels."""

import zlib

import numpy as np
import pytest

pytest.importorskip("mmdet", reason="ebm_mmdet.regression needs mmdet")

from hypothesis import given, settings
from hypothesis import strategies as st

from ebm_mmdet.regression.datasets import TASKS, IntegerTruth, MixtureTruth
from ebm_mmdet.regression.datasets.generated import cells, head, road
from ebm_mmdet.regression.datasets.generated.digits import scan_numbers

WITHOUT_DIGITS = [(t, v) for t in TASKS.values() for v in t.variants if t.name != "digits"]
WITH_TRUTH = [(t, v) for t, v in WITHOUT_DIGITS if v != "hard"]
HALF_LOG_2_PI_E = 0.5 * np.log(2 * np.pi * np.e)


def named(cases):
    return pytest.mark.parametrize(
        ("task", "variant"), cases, ids=[f"{t.name}-{v}" for t, v in cases]
    )


def all_cases():
    return WITHOUT_DIGITS + [(TASKS["digits"], v) for v in TASKS["digits"].variants]


@named(all_cases())
def test_sample_is_a_function_of_seed_and_index(task, variant):
    if task.name == "digits":
        pytest.importorskip("sklearn")
    first = task.render(3, 5, variant)
    task.render(3, 6, variant)
    again = task.render(3, 5, variant)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.target, again.target)
    assert first.image.shape == (64, 64, 3)
    assert first.image.dtype == np.uint8
    assert first.target.dtype == np.float32
    assert not np.array_equal(first.image, task.render(4, 5, variant).image)
    assert not np.array_equal(first.image, task.render(3, 4, variant).image)
    label, _, _ = task.label(3, 5, variant)
    assert np.array_equal(label, first.target)


# Checksums of 200 labels in hundredths, and means of the 4 x 4 parts of an image.
CHECKSUMS = {
    "cells-c": 2270285369,
    "cells-a": 503929265,
    "cells-b": 734419749,
    "cells-hard": 619807077,
    "road-mixed": 2809227277,
    "road-plain": 1201222494,
    "road-fork": 767499495,
    "head-mixed": 811492453,
    "head-plain": 2283375475,
    "head-ambiguous": 3674671564,
    "rings-sawn": 4217289863,
    "digits-train": 1590281363,
    "digits-val": 1590281363,
    "digits-test": 1590281363,
}
MEANS = {
    "cells-c": [40, 51, 28, 37, 42, 31, 33, 39, 44, 43, 29, 38, 35, 40, 33, 31],
    "cells-a": [40, 51, 28, 37, 42, 31, 33, 39, 44, 43, 29, 38, 35, 40, 33, 31],
    "cells-b": [40, 51, 28, 37, 42, 31, 33, 39, 44, 43, 29, 38, 35, 40, 33, 31],
    "cells-hard": [44, 35, 20, 39, 51, 36, 32, 43, 63, 30, 39, 43, 39, 34, 27, 21],
    "road-mixed": [179, 176, 177, 177, 157, 158, 159, 157, 132, 133, 134, 133, 121, 124, 118, 125],
    "road-plain": [179, 176, 177, 177, 157, 158, 159, 157, 132, 133, 134, 133, 121, 124, 118, 125],
    "road-fork": [179, 176, 177, 177, 157, 158, 158, 157, 132, 133, 132, 133, 121, 124, 118, 125],
    "head-mixed": [13, 23, 17, 11, 30, 104, 85, 14, 35, 112, 91, 17, 12, 26, 42, 16],
    "head-plain": [13, 23, 17, 11, 30, 104, 85, 14, 35, 112, 91, 17, 12, 26, 42, 16],
    "head-ambiguous": [13, 23, 17, 11, 30, 99, 78, 14, 35, 107, 84, 17, 12, 26, 42, 16],
    "rings-sawn": [234, 188, 197, 239, 204, 179, 180, 194, 243, 190, 167, 199, 238, 242, 207, 238],
    "digits-train": [180, 180, 178, 179, 156, 138, 116, 155, 174, 112, 85, 139, 178, 178, 178, 179],
    "digits-val": [180, 180, 178, 179, 163, 140, 121, 160, 179, 144, 150, 145, 178, 178, 178, 179],
    "digits-test": [180, 180, 178, 179, 163, 130, 130, 168, 151, 110, 97, 137, 178, 178, 178, 179],
}


def fingerprint(task, variant):
    labels = np.stack([task.label(1, i, variant)[0] for i in range(200)])
    checksum = zlib.crc32(np.rint(labels * 100).astype("<i8").tobytes())
    grey = task.render(1, 0, variant).image.mean(2)
    return checksum, grey.reshape(4, 16, 4, 16).mean((1, 3)).ravel()


@named(all_cases())
def test_labels_and_pixels_are_those_of_every_machine(task, variant):
    if task.name == "digits":
        pytest.importorskip("sklearn")
    checksum, means = fingerprint(task, variant)
    assert checksum == CHECKSUMS[f"{task.name}-{variant}"]
    np.testing.assert_allclose(means, MEANS[f"{task.name}-{variant}"], atol=1.0)


@named(all_cases())
def test_labels_are_inside_the_declared_range(task, variant):
    if task.name == "digits":
        pytest.importorskip("sklearn")
    target = task.describe(variant)
    low, high = np.array(target["ranges"]).T
    labels = np.stack([task.label(0, i, variant)[0] for i in range(500)])
    assert labels.shape[1] == len(target["names"]) == len(target["periods"])
    assert (labels >= low).all()
    assert (labels <= high).all()
    if target["integer"]:
        assert np.array_equal(labels, np.rint(labels))


@named([(t, v) for t, v in WITH_TRUTH if t.name != "head"])
def test_truth_is_normalised_and_labels_follow_it(task, variant):
    """log p integrates to one over the range, and the labels' cdf values are uniform."""
    target = task.describe(variant)
    margin = 0.5 if target["integer"] else 0.0
    low, high = target["ranges"][0][0] - margin, target["ranges"][0][1] + margin
    step = 0.02
    grid = np.arange(low + step / 2, high, step)
    ranks = []
    for i in range(150):
        label, _, truth = task.label(11, i, variant)
        mass = np.exp(truth.log_prob(grid[:, None])) * step
        assert mass.sum() == pytest.approx(1, abs=1e-6)
        noise = np.random.default_rng(i).uniform(-margin, margin)
        ranks.append(mass[grid < label[0] + noise].sum())
    expected = (np.arange(150) + 0.5) / 150
    # The Kolmogorov-Smirnov distance of 150 uniform numbers is above 0.16 once in a thousand.
    assert np.abs(np.sort(ranks) - expected).max() < 0.16


def entropy(truth, low, high, step=0.005):
    grid = np.arange(low, high, step)[:, None]
    log_p = truth.log_prob(grid)
    return float(-(np.exp(log_p) * log_p).sum() * step)


def test_oracle_nll_of_cells():
    """0.726 for one peak, and 0.611 more for two; overlapping peaks cost less than their sum."""
    noise = HALF_LOG_2_PI_E + np.log(0.5)
    assert noise == pytest.approx(0.726, abs=1e-3)
    latent = {"count": 20, "variant": "a"}
    assert entropy(cells.CELLS.truth(latent), 0, 50) == pytest.approx(noise, abs=1e-6)
    latent["variant"] = "c"
    coin = -(0.3 * np.log(0.3) + 0.7 * np.log(0.7))
    assert coin == pytest.approx(0.611, abs=1e-3)
    assert entropy(cells.CELLS.truth(latent), 0, 50) == pytest.approx(noise + coin, abs=1e-6)
    for count, bits in ((10, 1.78), (20, 2.13)):
        probs = IntegerTruth(count, cells._binomial(count))
        assert probs.entropy() == pytest.approx(bits, abs=5e-3)
        latent = {"count": count, "variant": "b"}
        smooth = entropy(cells.CELLS.truth(latent), 0, 60)
        assert bits < smooth < bits + 0.1  # far less than bits + noise


@pytest.mark.parametrize("variant", ["a", "c"])
def test_mean_nll_of_cells_is_the_oracle(variant):
    expected = 0.726 if variant == "a" else 0.726 + 0.611
    values = []
    for i in range(3000):
        label, latent, truth = cells.CELLS.label(2, i, variant)
        if latent["count"] >= 5:  # below, the two peaks overlap
            values.append(-truth.log_prob(label))
    assert np.mean(values) == pytest.approx(expected, abs=4 * np.std(values) / len(values) ** 0.5)


def test_oracle_nll_of_roads():
    """2.112 at s = 2 degrees, and 0.673 more at a fork."""
    plain = MixtureTruth.of([1.0], [[10.0]], 2.0)
    assert entropy(plain, -20, 40) == pytest.approx(2.112, abs=1e-3)
    for i in range(200):
        _, latent, truth = road.ROAD.label(0, i, "fork")
        left, right = latent["angles"]
        assert right - left >= 10 * latent["noise"]
        assert latent["noise"] == pytest.approx(1 + 60 / latent["visible_range"])
        # The mean of the branches is off the road, farther than 3 s from both.
        middle = 0.6 * left + 0.4 * right
        assert min(middle - left, right - middle) > 3 * latent["noise"]
        assert truth.weights == pytest.approx([0.6, 0.4])
    latent = {"fork": True, "angles": np.array([-20.0, 20.0]), "noise": 2.0}
    assert entropy(road.ROAD.truth(latent), -60, 60) == pytest.approx(2.785, abs=1e-3)


def test_thirty_percent_of_the_roads_fork_and_the_heads_are_ambiguous():
    for name in ("road", "head"):
        groups = [TASKS[name].group(TASKS[name].label(0, i)[1]) for i in range(2000)]
        share = np.mean([group != "plain" for group in groups])
        assert share == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize(
    ("variant", "expected"), [("plain", 5.473), ("ambiguous", 6.166), ("mixed", 5.681)]
)
def test_oracle_nll_of_heads(variant, expected):
    values = []
    for i in range(3000):
        label, _, truth = head.HEAD.label(5, i, variant)
        values.append(-truth.log_prob(label))
    assert np.mean(values) == pytest.approx(expected, abs=4 * np.std(values) / len(values) ** 0.5)


@pytest.mark.parametrize(("cut", "expected"), [(1 / 6, 1.30), (0.5, 1.93), (1.0, 2.30)])
def test_entropy_of_rings(cut, expected):
    truth = TASKS["rings"].truth({"rings": 7, "cut": cut})
    assert truth.entropy() == pytest.approx(expected, abs=5e-3)
    values = np.arange(len(truth.probs)) + truth.first
    assert (truth.probs * values).sum() == pytest.approx(7 + 6 * cut, abs=1e-6)
    assert TASKS["rings"].truth({"rings": 7, "cut": 0.0}).probs[0] == pytest.approx(1)


angle = st.floats(-1, 1)


@settings(max_examples=40, deadline=None)
@given(angle, angle, angle)
def test_both_poses_of_an_ambiguous_head_give_one_image(yaw, pitch, roll):
    pose = np.array([yaw, pitch, roll]) * head.MAX_POSE
    other = pose * (-1, -1, 1)
    centre = np.array([31.0, 33.5])
    a, b = (head.project(head.blobs(True), p, centre, 22.0) for p in (pose, other))
    np.testing.assert_allclose(a, b, atol=1e-12)
    mirror = np.diag([1.0, 1.0, -1.0])
    np.testing.assert_allclose(
        mirror @ head.rotation(pose) @ mirror, head.rotation(other), atol=1e-12
    )


def test_painted_images_of_both_poses_are_equal_and_those_of_a_plain_head_are_not():
    for i in range(20):
        _, latent, _ = head.HEAD.label(0, i, "ambiguous")
        mirrored = {**latent, "pose": latent["pose"] * (-1, -1, 1)}
        a, b = (head.HEAD.image(0, i, state).astype(int) for state in (latent, mirrored))
        assert np.abs(a - b).max() <= 1  # rounding to 8 bits
        if np.abs(latent["pose"][:2]).max() > 15:
            a, b = (
                head.HEAD.image(0, i, {**state, "ambiguous": False}).astype(int)
                for state in (latent, mirrored)
            )
            assert np.abs(a - b).max() > 40


def angles_between(a, b):
    """Angles of the rotations from each of a to each of b, in degrees."""
    traces = np.einsum("aij,bij->ab", a, b)
    return np.rad2deg(np.arccos(np.clip((traces - 1) / 2, -1, 1)))


def test_no_third_pose_looks_like_an_ambiguous_head():
    """Poses farther than 15 degrees from both differ by more than pixel noise can hide."""
    rng = np.random.default_rng(0)
    centre = np.array([32.0, 32.0])
    poses = rng.uniform(-1, 1, (300, 3)) * head.MAX_POSE
    images = np.stack([head.project(head.blobs(True), p, centre, 22.0) for p in poses])
    flat = images.reshape(len(poses), -1)
    squares = (flat**2).sum(1)
    rms = np.sqrt(np.maximum(squares[:, None] + squares - 2 * flat @ flat.T, 0) / flat.shape[1])
    turns, mirrored = (
        np.stack([head.rotation(pose * signs) for pose in poses])
        for signs in ((1, 1, 1), (-1, -1, 1))
    )
    apart = np.minimum(*(angles_between(turns, other) for other in (turns, mirrored)))
    assert rms[apart > 15].min() > 0.025


def test_count_of_cells_can_be_read():
    """Discs never touch, so that connected bright regions are as many as there are cells."""
    for i in range(30):
        rng = cells.CELLS.stream(0, i)
        points = cells._place(rng, 40)
        distance = np.linalg.norm(points[:, None] - points, axis=2) + 1e9 * np.eye(40)
        assert distance.min() >= cells.MIN_DISTANCE


def test_light_of_cells_grows_with_their_number():
    samples = [cells.render(0, i, "hard") for i in range(60)]
    light = [s.image.mean() for s in samples]
    assert np.corrcoef(light, [s.target[0] for s in samples])[0, 1] > 0.9


def test_road_goes_where_its_curvature_leads():
    """The mirrored road has the opposite curvature: asphalt moves to the other side."""
    latent = road.ROAD.label(0, 0, "plain")[1]
    sides = []
    for angle in (-50.0, 50.0):
        state = {
            **latent,
            "visible_range": 200.0,
            "angles": np.array([angle]),
            "curvatures": np.array([angle / road.WHEEL_PER_CURVATURE]),
        }
        image = road.ROAD.image(0, 0, state).astype(float)[20:30]
        greenness = image[..., 1] - image[..., 2]  # meadow is greener than asphalt
        grey = greenness < np.median(greenness) - 5
        sides.append(np.nonzero(grey)[1].mean())
    assert sides[0] < 26
    assert sides[1] > 38


def test_digits_are_split_by_scan():
    pytest.importorskip("sklearn")
    parts = [set(scan_numbers(v).tolist()) for v in ("train", "val", "test")]
    assert [len(part) for part in parts] == [1197, 300, 300]
    assert len(set.union(*parts)) == 1797
    task = TASKS["digits"]
    for variant, part in zip(("train", "val", "test"), parts):
        assert {task.label(0, i, variant)[1]["scan"] for i in range(300)} <= part


def test_digits_turn_counter_clockwise():
    pytest.importorskip("sklearn")
    task = TASKS["digits"]
    latent = task.label(0, 0, "train")[1]
    upright, turned = (task.image(0, 0, {**latent, "angle": angle}) < 110 for angle in (0.0, 90.0))
    assert 200 < upright.sum() < 2000
    shifts = [(a, b) for a in range(-6, 7) for b in range(-6, 7)]  # its centre is not the image's

    def overlap(turns):
        back = np.rot90(turned, turns)
        return max((np.roll(back, shift, (0, 1)) & upright).sum() for shift in shifts)

    assert overlap(-1) > 0.9 * upright.sum()  # rot90 turns counter-clockwise, -1 turns back
    assert overlap(1) < 0.8 * upright.sum()


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="no variant 'z'"):
        cells.render(0, 0, "z")
    with pytest.raises(ValueError, match="seed=-1"):
        cells.render(-1, 0)


def test_missing_scikit_learn_is_explained(monkeypatch):
    import sys

    from ebm_mmdet.regression.datasets.generated import digits

    digits._scans.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        digits._scans()
