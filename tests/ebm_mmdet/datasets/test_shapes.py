"""The generator: exact boxes that are really in the image, reproducible, in COCO format."""

import json

import cv2
import numpy as np
import pytest

pytest.importorskip("mmdet", reason="ebm_mmdet.datasets needs mmdet")

from ebm_mmdet.datasets.outlines import (
    CLASSES,
    HandledOutline,
    Outline,
    place_outlines,
    random_outline,
)
from ebm_mmdet.datasets.shapes import _paint, render_conventions, render_shapes, write_coco

SIZE = (96, 128)


def outlines(count, seed=0):
    rng = np.random.default_rng(seed)
    drawn = (random_outline(rng, SIZE, (20, 60)) for _ in range(4 * count))
    return [o for o in drawn if o is not None][:count]


def boundary(outline, points=4001):
    """A dense walk along the outline, independent of `extremes`."""
    t = np.linspace(0, 1, points)
    if outline.vertices is None:
        circle = np.stack([np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)], 1)
        return outline.centre + circle @ outline.matrix.T
    corners = np.concatenate([outline.vertices, outline.vertices[:1]])
    position = t * (len(corners) - 1)
    return np.stack([np.interp(position, np.arange(len(corners)), c) for c in corners.T], 1)


def test_box_is_the_range_of_the_outline():
    for outline in outlines(60):
        walk = boundary(outline, 4001 * 12)
        expected = np.concatenate([walk.min(0), walk.max(0)])
        np.testing.assert_allclose(outline.box(), expected, atol=2e-3)
        assert (outline.box()[:2] >= 0).all()
        assert (outline.box()[2:] <= SIZE[::-1]).all()


def test_signed_distance_against_brute_force():
    rng = np.random.default_rng(1)
    for outline in outlines(40):
        points = rng.uniform((0, 0), SIZE[::-1], (50, 2))
        walk = boundary(outline, 4001 * 4)
        brute = np.linalg.norm(points[:, None] - walk[None], axis=2).min(1)
        inside = [
            cv2.pointPolygonTest(walk.astype(np.float32), tuple(map(float, p)), False) > 0
            for p in points
        ]
        expected = np.where(inside, -brute, brute)
        distance = outline.signed_distance(points)
        if outline.vertices is None:  # first order: exact at the rim, right in sign elsewhere
            near = brute < 0.5
            np.testing.assert_allclose(distance[near], expected[near], atol=0.02)
            clear = brute > 0.05
            np.testing.assert_array_equal(np.sign(distance[clear]), np.sign(expected[clear]))
        else:
            np.testing.assert_allclose(distance, expected, atol=0.02)


def test_all_extreme_points_stay_visible():
    covered_something = False
    for seed in range(20):
        stack = place_outlines(np.random.default_rng(seed), SIZE, (5, 9), (20, 60))
        for i, below in enumerate(stack):
            for above in stack[i + 1 :]:
                assert above.signed_distance(below.extremes()).min() >= 1.5
                covered_something |= bool((above.signed_distance(boundary(below)) < 0).any())
    assert covered_something, "no overlap in 20 images: the set would be too easy"


def test_box_edges_are_in_the_pixels():
    """The coverage painted by an axis-parallel rectangle gives its sub-pixel edges back."""
    x1, y1, x2, y2 = 20.3, 30.8, 60.65, 70.1
    corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    outline = Outline(1, corners.mean(0), np.eye(2), corners)
    black, noise = np.zeros((96, 96, 3), np.float32), np.full((96, 96, 3), 255, np.float32)
    _paint(black, outline, np.random.default_rng(0))
    _paint(noise, outline, np.random.default_rng(0))
    # The same texture over two backgrounds: the difference is 255 (1 - coverage), unless the
    # colour was drawn again for one of them, which this seed does not do.
    coverage = 1 - (noise - black)[..., 0] / 255
    row, column = coverage[50], coverage[:, 40]
    left = np.flatnonzero(row > 1e-3)[0] + 1 - row[np.flatnonzero(row > 1e-3)[0]]
    assert left == pytest.approx(x1, abs=1e-3)
    assert row.sum() == pytest.approx(x2 - x1, abs=1e-3)
    assert column.sum() == pytest.approx(y2 - y1, abs=1e-3)


def test_same_arguments_same_image_and_other_index_other_image():
    first = render_shapes(3, 5, image_size=SIZE)
    again = render_shapes(3, 5, image_size=SIZE)
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
    assert first[0].shape == (*SIZE, 3)
    assert first[0].dtype == np.uint8
    for seed, index in ((3, 6), (4, 5)):
        assert (render_shapes(seed, index, image_size=SIZE)[0] != first[0]).mean() > 0.5


def test_every_class_occurs_and_boxes_are_valid():
    seen = set()
    for index in range(30):
        image, boxes, labels = render_shapes(0, index)
        assert len(boxes) == len(labels) >= 1
        assert (boxes[:, 2:] - boxes[:, :2]).min() > 3
        assert boxes.min() >= 0
        assert boxes.max() <= image.shape[0]
        seen.update(labels.tolist())
    assert seen == set(range(len(CLASSES)))


def test_a_handle_changes_one_side_and_both_boxes_are_in_the_image():
    coins, sides = [], set()
    for index in range(30):
        image, boxes, chosen, labels = render_conventions(0, index, SIZE, (2, 4), (20, 40))
        assert boxes.shape == (len(labels), 2, 4)
        assert boxes.min(initial=0) >= 0
        assert (boxes <= np.array([*SIZE[::-1]] * 2)).all()
        difference = np.abs(boxes[:, 1] - boxes[:, 0])
        assert ((difference > 1).sum(1) == 1).all()
        side = difference.argmax(1)
        size = boxes[:, 0, 2:] - boxes[:, 0, :2]
        length = difference.max(1) / size[np.arange(len(size)), side % 2]
        assert ((length > 0.699) & (length < 0.901)).all()
        coins += chosen.tolist()
        sides.update(side.tolist())
        again = render_conventions(0, index, SIZE, (2, 4), (20, 40))
        for a, b in zip((image, boxes, chosen, labels), again):
            np.testing.assert_array_equal(a, b)
    assert sides == {0, 1, 2, 3}
    # A fair coin: 4 standard deviations.
    assert abs(np.mean(coins) - 0.5) < 2 / len(coins) ** 0.5


def test_the_handle_is_in_the_picture():
    """Pixels of the bar differ from those of the same object without it."""
    rng = np.random.default_rng(4)
    outline = random_outline(rng, SIZE, (20, 30), (0.7, 0.9))
    assert isinstance(outline, HandledOutline)
    bare, whole = (np.full((*SIZE, 3), 128, np.float32) for _ in range(2))
    _paint(bare, outline.body, np.random.default_rng(0))
    _paint(whole, outline.handle, np.random.default_rng(1), grey=True)
    _paint(whole, outline.body, np.random.default_rng(0))
    changed = np.abs(whole - bare).max(-1) > 20
    xs, ys = np.flatnonzero(changed.any(0)), np.flatnonzero(changed.any(1))
    body, full = outline.boxes()
    side = np.abs(full - body).argmax()
    end = [xs[0], ys[0], xs[-1] + 1, ys[-1] + 1][side]
    assert end == pytest.approx(full[side], abs=1)


def test_all_points_of_both_boxes_stay_visible():
    for seed in range(10):
        stack = place_outlines(np.random.default_rng(seed), SIZE, (3, 6), (16, 30), (0.7, 0.9))
        for i, below in enumerate(stack):
            for above in stack[i + 1 :]:
                assert above.signed_distance(below.extremes()).min() >= 1.5


def test_conventions_are_written_with_the_annotated_box_among_them(tmp_path):
    path = write_coco(tmp_path, "val", 4, 11, conventions=2, image_size=SIZE, extent=(20, 40))
    annotations = json.loads(path.read_text())["annotations"]
    assert {a["convention"] for a in annotations} == {0, 1}
    for a in annotations:
        assert a["bbox"] == a["conventions"][a["convention"]]
    for options, match in (
        (dict(conventions=3), "conventions=3"),
        (dict(conventions=2, handle_length=(0.9, 0.7)), "handle_length=\\(0.9, 0.7\\)"),
    ):
        with pytest.raises(ValueError, match=match):
            write_coco(tmp_path, "other", 1, 0, **options)


def test_negative_seed_is_named():
    with pytest.raises(ValueError, match="seed=-1"):
        render_shapes(-1, 0)


def test_write_coco_round_trip_and_no_silent_overwrite(tmp_path):
    path = write_coco(tmp_path, "val", 3, seed=11, image_size=SIZE)
    content = json.loads(path.read_text())
    assert [c["name"] for c in content["categories"]] == list(CLASSES)
    for entry in content["images"]:
        image, boxes, labels = render_shapes(11, entry["id"], image_size=SIZE)
        np.testing.assert_array_equal(
            cv2.imread(str(tmp_path / "images" / entry["file_name"])), image
        )
        mine = [a for a in content["annotations"] if a["image_id"] == entry["id"]]
        written = np.array([a["bbox"] for a in mine])
        written[:, 2:] += written[:, :2]
        np.testing.assert_allclose(written, boxes, atol=2e-4)
        assert [a["category_id"] - 1 for a in mine] == labels.tolist()
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"val\.json"):
        write_coco(tmp_path, "val", 1, seed=0)
    assert path.read_bytes() == before
