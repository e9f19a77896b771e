"""Overlaps of rotated boxes: by hand, against shapely, and properties that hold for any boxes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from ebm_mmdet3d.evaluation import rotated_iou
from ebm_mmdet3d.evaluation.rotated_iou import (
    bev_overlaps_camera,
    box_iou_3d,
    box_iou_bev,
    iou_3d_camera,
)

CAR = (10.0, 4.0, -1.7, 4.0, 1.6, 1.5, 0.3)
BEV = [0, 1, 3, 4, 6]


def random_boxes(n: int, seed: int, spread: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.2, 5, (n, 3))
    return np.column_stack((rng.uniform(-spread, spread, (n, 3)), size, rng.uniform(-7, 7, n)))


def moved(box, **change) -> np.ndarray:
    names = ("x", "y", "z", "l", "w", "h", "yaw")
    box = np.array(box, dtype=float)
    for name, value in change.items():
        box[names.index(name)] += value
    return box


def iou(a, b) -> float:
    return float(box_iou_3d([a], [b])[0, 0])


# By hand ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("yaw", [0.0, 0.3, math.pi / 4, math.pi / 2, 2.0, -3.1, 100.0])
def test_identical_boxes(yaw):
    box = [1e3 + 0.1, -70.2, -1.7, 3.9, 1.6, 1.56, yaw]
    assert iou(box, box) == pytest.approx(1, abs=1e-9)
    assert box_iou_bev([box], [box])[0, 0] == pytest.approx(1, abs=1e-9)
    camera = [[box[0], box[1], box[3], box[4], yaw]]
    assert bev_overlaps_camera(camera, camera)[0, 0] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75])
def test_shift_along_an_axis(axis, share):
    box = (0.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.0)
    side = dict(x=4.0, y=2.0, z=1.5)[axis]
    for sign in (-1, 1):
        found = iou(box, moved(box, **{axis: sign * share * side}))
        assert found == pytest.approx((1 - share) / (1 + share), abs=1e-12)


@pytest.mark.parametrize("yaw", [0.0, 0.5, -2.0])
def test_touching_boxes_share_nothing(yaw):
    def along(p, q):
        x, y = math.cos(yaw) * p - math.sin(yaw) * q, math.sin(yaw) * p + math.cos(yaw) * q
        return (x, y, 0.0, 4.0, 2.0, 1.5, yaw)

    for p, q in ((4, 0), (0, 2), (4, 2), (-4, 2), (4, 1)):  # sides, corners, a part of a side
        assert iou(along(0, 0), along(p, q)) == pytest.approx(0, abs=1e-12)
    assert iou(along(0, 0), moved(along(0, 0), z=1.5)) == 0  # one on top of the other


def test_square_turned_by_45_degrees():
    """An octagon: its area is 2 (√2 - 1) of the square's."""
    square = (5.0, -3.0, 0.0, 2.0, 2.0, 1.0, 0.1)
    shared = 2 * (math.sqrt(2) - 1)
    assert iou(square, moved(square, yaw=math.pi / 4)) == pytest.approx(shared / (2 - shared))


def test_box_inside_a_box():
    outer = (0.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.7)
    inner = (0.2, 0.1, 0.25, 1.0, 1.0, 1.0, -0.4)
    assert iou(outer, inner) == pytest.approx(1 / 12, abs=1e-12)
    assert iou(inner, outer) == pytest.approx(1 / 12, abs=1e-12)


def test_sides_and_headings_have_names():
    box = (0.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.3)
    assert iou(box, moved(box, yaw=math.pi)) == pytest.approx(1, abs=1e-9)
    swapped = (0.0, 0.0, 0.0, 2.0, 4.0, 1.5, 0.3 + math.pi / 2)
    assert iou(box, swapped) == pytest.approx(1, abs=1e-9)
    # Length lies along (cos yaw, sin yaw): a car ahead at yaw 0.3 shares half with its successor.
    ahead = moved(box, x=2 * math.cos(0.3), y=2 * math.sin(0.3))
    assert iou(box, ahead) == pytest.approx(1 / 3, abs=1e-12)


def test_camera_length_points_against_z_for_a_positive_angle():
    """Section of the KITTI convention: (l/2, 0) of the box is at (x + l/2 cos, z - l/2 sin)."""
    box = np.array([1.0, 20.0, 4.0, 1.6, 0.3])
    ahead = np.add(box, [2 * math.cos(0.3), -2 * math.sin(0.3), 0, 0, 0])
    aside = np.add(box, [2 * math.cos(0.3), 2 * math.sin(0.3), 0, 0, 0])
    assert bev_overlaps_camera([box], [ahead])[0, 0] == pytest.approx(1 / 3, abs=1e-12)
    assert bev_overlaps_camera([box], [aside])[0, 0] < 0.3


def test_camera_y_is_the_bottom_and_points_down():
    low = np.array([0.0, 1.7, 20.0, 4.0, 1.5, 1.6, 0.3])
    for rise, expected in ((0.75, 1 / 3), (1.5, 0)):
        high = low - [0, rise, 0, 0, 0, 0, 0]
        assert iou_3d_camera([low], [high])[0, 0] == pytest.approx(expected, abs=1e-12)
    taller = np.add(low, [0, 0, 0, 0, 1.5, 0, 0])  # the same floor, twice the height
    assert iou_3d_camera([low], [taller])[0, 0] == pytest.approx(0.5, abs=1e-12)


def test_criteria_are_those_of_mmdet3d():
    box, query = [0.0, 0.0, 4.0, 2.0, 0.0], [1.0, 0.0, 2.0, 1.0, 0.0]  # the query lies inside
    expected = {-1: 2 / 8, 0: 2 / 2, 1: 2 / 8, 2: 2.0}
    box_outside, query_outside = [0.0, 0.0, 4.0, 2.0, 0.0], [2.0, 0.0, 2.0, 1.0, 0.0]
    half = {-1: 1 / 9, 0: 1 / 2, 1: 1 / 8, 2: 1.0}
    for criterion in (-1, 0, 1, 2):
        for aligned in (False, True):
            found = bev_overlaps_camera([box], [query], criterion, aligned).item()
            assert found == pytest.approx(expected[criterion], abs=1e-12)
            found = bev_overlaps_camera([box_outside], [query_outside], criterion, aligned).item()
            assert found == pytest.approx(half[criterion], abs=1e-12)


# Against shapely ----------------------------------------------------------------------------------


def polygons(footprints: np.ndarray, clockwise: bool):
    """Footprints (x, y, l, w, angle) as shapely polygons, corners from the definition."""
    shapely = pytest.importorskip("shapely")
    x, y, length, width, angle = footprints.T[:, :, None]
    p = length / 2 * np.array([1, -1, -1, 1])
    q = width / 2 * np.array([1, 1, -1, -1])
    cos, sin = np.cos(angle), np.sin(angle)
    if clockwise:
        corners = (cos * p + sin * q + x, -sin * p + cos * q + y)
    else:
        corners = (cos * p - sin * q + x, sin * p + cos * q + y)
    return shapely, shapely.polygons(np.stack(corners, -1))


@pytest.mark.parametrize("seed", range(3))
def test_bev_is_that_of_shapely(seed):
    first, second = random_boxes(4000, seed), random_boxes(4000, seed + 100)
    for clockwise in (False, True):
        shapely, a = polygons(first[:, BEV], clockwise)
        _, b = polygons(second[:, BEV], clockwise)
        shared = shapely.area(shapely.intersection(a, b))
        expected = shared / shapely.area(shapely.union(a, b))
        if clockwise:
            found = bev_overlaps_camera(first[:, BEV], second[:, BEV], aligned=True)
            areas = bev_overlaps_camera(first[:, BEV], second[:, BEV], 2, aligned=True)
            np.testing.assert_allclose(areas, shared, rtol=0, atol=1e-9)
        else:
            found = box_iou_bev(first, second, aligned=True)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
        assert (found > 0.1).mean() > 0.1  # otherwise this compares nothing


def test_3d_is_that_of_shapely():
    first, second = random_boxes(4000, 7, spread=1.5), random_boxes(4000, 8, spread=1.5)
    shapely, a = polygons(first[:, BEV], clockwise=False)
    _, b = polygons(second[:, BEV], clockwise=False)
    top = np.minimum(first[:, 2] + first[:, 5], second[:, 2] + second[:, 5])
    height = np.clip(top - np.maximum(first[:, 2], second[:, 2]), 0, None)
    shared = shapely.area(shapely.intersection(a, b)) * height
    expected = shared / (first[:, 3:6].prod(1) + second[:, 3:6].prod(1) - shared)
    found = box_iou_3d(first, second, aligned=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert (found > 0.1).mean() > 0.1
    # The same boxes in the camera frame: x right, y down, z ahead.
    camera = [
        np.column_stack((-b[:, 1], -b[:, 2], b[:, 0], b[:, [3, 5, 4]], -b[:, 6] - math.pi / 2))
        for b in (first, second)
    ]
    np.testing.assert_allclose(iou_3d_camera(*camera, aligned=True), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_slivers_and_near_copies_are_those_of_shapely(scale):
    """Boxes that almost coincide, where two sides are almost one line, and very thin boxes."""
    rng = np.random.default_rng(3)
    first = random_boxes(3000, 3)
    second = first + 10.0 ** rng.uniform(-14, -1, (3000, 1)) * rng.normal(size=(3000, 7))
    first[::3, 4] = second[::3, 4] = 10.0 ** rng.uniform(-4, -1, 1000)
    first[:, :6] *= scale
    second[:, :6] *= scale
    shapely, a = polygons(first[:, BEV], clockwise=False)
    _, b = polygons(second[:, BEV], clockwise=False)
    shared = shapely.area(shapely.intersection(a, b))
    expected = shared / (shapely.area(a) + shapely.area(b) - shared)
    found = box_iou_bev(first, second, aligned=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-12


# Properties ---------------------------------------------------------------------------------------

seeds = st.integers(0, 2**32 - 1)
size = st.floats(1e-3, 1e3)
coordinate = st.floats(-1e3, 1e3)
box = st.tuples(coordinate, coordinate, coordinate, size, size, size, st.floats(-100, 100))


@settings(max_examples=300, deadline=None)
@given(box, box)
def test_bounds_symmetry_and_identity_of_any_boxes(a, b):
    for function in (box_iou_3d, box_iou_bev):
        matrix = function([a, b], [a, b])
        assert (matrix >= 0).all()
        assert (matrix <= 1 + 1e-12).all()
        assert matrix[0, 1] == pytest.approx(matrix[1, 0], abs=1e-9)
        assert np.diag(matrix) == pytest.approx([1, 1], abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(seeds, st.floats(-10, 10), st.tuples(coordinate, coordinate, coordinate))
def test_invariance_to_rigid_motion(seed, turn, shift):
    first, second = random_boxes(40, seed), random_boxes(30, seed + 1)
    expected = box_iou_3d(first, second)

    def carried(boxes):
        boxes = boxes.copy()
        cos, sin = math.cos(turn), math.sin(turn)
        boxes[:, :2] = boxes[:, :2] @ np.array([[cos, sin], [-sin, cos]])
        boxes[:, :3] += shift
        boxes[:, 6] += turn
        return boxes

    np.testing.assert_allclose(box_iou_3d(carried(first), carried(second)), expected, atol=1e-9)
    mirror = np.array([1.0, -1, 1, 1, 1, 1, -1])
    np.testing.assert_allclose(box_iou_3d(first * mirror, second * mirror), expected, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(seeds, st.floats(1e-3, 1e3))
def test_invariance_to_the_unit(seed, unit):
    first, second = random_boxes(20, seed), random_boxes(20, seed + 1)
    scale = np.array([unit] * 6 + [1.0])
    expected = box_iou_3d(first, second)
    np.testing.assert_allclose(box_iou_3d(first * scale, second * scale), expected, atol=1e-9)


def test_rows_do_not_depend_on_each_other():
    first, second = random_boxes(37, 1), random_boxes(23, 2)
    together = box_iou_3d(first, second)
    for i in range(37):
        assert np.array_equal(box_iou_3d(first[i : i + 1], second)[0], together[i])
    pairs = np.repeat(first, 23, axis=0), np.tile(second, (37, 1))
    assert np.array_equal(box_iou_3d(*pairs, aligned=True), together.ravel())


# Every box has a defined result -------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", range(7))
def test_values_that_are_not_finite_overlap_nothing(value, column):
    bad = moved(CAR)
    bad[column] = value
    boxes = [CAR, bad]
    assert np.array_equal(box_iou_3d(boxes, boxes), [[box_iou_3d([CAR], [CAR])[0, 0], 0], [0, 0]])
    assert not box_iou_3d([bad], [bad], aligned=True).any()
    if column not in (2, 5):
        assert not box_iou_bev([bad], boxes).any()


@pytest.mark.parametrize("size", [0.0, -1.0, -4.0])
@pytest.mark.parametrize("columns", [[3], [4], [5], [3, 4], [3, 4, 5]])
def test_boxes_without_extent_overlap_nothing(size, columns):
    empty = moved(CAR)
    empty[columns] = size
    matrix = box_iou_3d([CAR, empty], [CAR, empty])
    assert matrix[0, 0] == pytest.approx(1)
    assert not matrix[0, 1]
    assert not matrix[1].any()
    if columns != [5]:
        for criterion in (-1, 0, 1, 2):
            flat = empty[BEV]
            assert not bev_overlaps_camera([flat], [flat, moved(CAR)[BEV]], criterion).any()


def test_no_boxes_and_more_columns():
    none = np.zeros((0, 7))
    assert box_iou_3d(none, [CAR]).shape == (0, 1)
    assert box_iou_3d([CAR], none).shape == (1, 0)
    assert iou_3d_camera(none, none).shape == (0, 0)
    assert box_iou_bev(none, none, aligned=True).shape == (0,)
    with_velocity = np.array([[*CAR, 1.0, 2.0]], dtype=np.float32)
    result = box_iou_3d(with_velocity, with_velocity)
    assert result.dtype == np.float64
    assert result[0, 0] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("aligned", [False, True])
def test_many_boxes_are_shared_among_threads(aligned, monkeypatch):
    """The result does not depend on how many there are, nor on who else calls at the same time."""
    monkeypatch.setattr(rotated_iou, "_PAIRS_PER_THREAD", 10)
    boxes, others = random_boxes(97, 0), random_boxes(97, 1)
    results = []
    for threads in (1, 5):
        monkeypatch.setattr(rotated_iou.numba.config, "NUMBA_NUM_THREADS", threads)
        results.append(box_iou_3d(boxes, others, aligned=aligned))
    assert results[0].any()
    np.testing.assert_array_equal(*results)
    with ThreadPoolExecutor(4) as callers:
        for result in callers.map(lambda _: box_iou_3d(boxes, others, aligned), range(40)):
            np.testing.assert_array_equal(result, results[0])


def test_threads_of_torch_are_left_alone(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(rotated_iou, "_PAIRS_PER_THREAD", 10)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        box_iou_3d(random_boxes(50, 0), random_boxes(50, 1))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_goes_on():
    """A worker of a data loader that is forked after an evaluation; OpenMP would kill it."""
    program = """
import multiprocessing
import numpy as np
from ebm_mmdet3d.evaluation import box_iou_bev, rotated_iou
rotated_iou._PAIRS_PER_THREAD = 10
rotated_iou.numba.config.NUMBA_NUM_THREADS = 2
boxes = np.tile([0.0, 0, 0, 4, 2, 1, 0.3], (20, 1))
assert np.allclose(box_iou_bev(boxes, boxes), 1)
with multiprocessing.get_context("fork").Pool(1) as pool:
    found = pool.apply_async(box_iou_bev, (boxes, boxes)).get(timeout=60)
assert np.allclose(found, 1)
"""
    path = [str(Path(__file__).resolve().parents[3]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(path)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_messages():
    with pytest.raises(ValueError, match=r"\(n, 7\), got \(1, 5\)"):
        box_iou_3d([CAR], np.zeros((1, 5)))
    with pytest.raises(ValueError, match=r"\(n, 7\), got \(7,\)"):
        box_iou_bev(CAR, [CAR])
    with pytest.raises(ValueError, match=r"\(n, 5\), got \(0, 4\)"):
        bev_overlaps_camera(np.zeros((0, 4)), np.zeros((0, 5)))
    with pytest.raises(ValueError, match="1 and 2 boxes"):
        box_iou_3d([CAR], [CAR, CAR], aligned=True)
