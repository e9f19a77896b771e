"""Solids are what their planes and corners say, and furniture fits into its size."""

import numpy as np
import pytest

from ebm_mmdet.datasets.ray_casting import Convex
from ebm_mmdet.datasets.rooms.clutter import CLUTTER_BUILDERS
from ebm_mmdet.datasets.rooms.furniture import CLASSES, CLUTTER, build
from ebm_mmdet.datasets.rooms.solids import block, column, cushion, loft, slab

SOLIDS = {
    "box": block((-1, -2, 0.5), (2, 1, 3)),
    "frustum": block((0, 0, 0), (1, 2, 1.5), top=(0.4, 1.3), lean=0.2),
    "slab": slab((1, 2, 3), (0.2, 0.4, 0.6)),
    "column": column((1, 2), 0.2, 1.4, (0.5, 0.3), 7),
    "cone": column((0, 0), 0, 1, (0.5, 0.0), 6),
    "cushion": cushion(0.6, 0.4, 0.15),
    "funnel": loft(*(np.array([(0, 0, z), (r, 0, z), (0, r, z)]) for r, z in ((0.2, 0), (1, 1)))),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_planes_are_those_of_the_hull_of_the_corners(name):
    solid = SOLIDS[name]
    hull = Convex.hull(np.unique(solid.vertices.round(12), axis=0))
    np.testing.assert_allclose(np.linalg.norm(solid.normals, axis=1), 1, rtol=1e-12)
    ours = np.unique(np.column_stack([solid.normals, solid.offsets]).round(6) + 0.0, axis=0)
    theirs = np.unique(np.column_stack([hull.normals, hull.offsets]).round(6) + 0.0, axis=0)
    if name == "cone":  # the tip is a face without area
        ours = ours[np.abs(ours[:, :3] - (0, 0, 1)).max(1) > 1e-6]
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.parametrize("name", [*CLASSES, *CLUTTER_BUILDERS])
def test_furniture_stands_on_the_floor_within_its_size(name):
    rng = np.random.default_rng(0)
    sizes = []
    for _ in range(15):
        thing = build(name, rng)
        corners = np.concatenate([part.vertices for part in thing.parts])
        width, depth, height = thing.size
        assert corners[:, 2].min() >= -1e-9
        assert corners[:, 2].max() <= height + 0.35  # flaps of a box and footboards stand out
        reach = np.abs(corners[:, :2]).max(0)
        assert (reach <= np.array([width, depth]) / 2 + 0.35).all()
        for part in thing.parts:
            assert (part.normals @ part.vertices.T <= part.offsets[:, None] + 1e-9).all()
        assert thing.label == (CLASSES.index(name) if name in CLASSES else CLUTTER)
        sizes.append(thing.size)
    assert np.std(sizes, axis=0).max() > 0 or name == "books"


def test_classes_are_nyuv2s_and_differ_in_size():
    from ebm_mmdet.datasets.nyuv2.classes import CLASSES as NYUV2

    assert set(CLASSES) <= set(NYUV2)
    assert list(CLASSES) == sorted(CLASSES)
    rng = np.random.default_rng(0)
    height = {n: np.mean([build(n, rng).size[2] for _ in range(30)]) for n in CLASSES}
    assert height["pillow"] < height["box"] < height["night stand"] < height["desk"]
    assert height["desk"] < height["chair"] < height["bookshelf"]


def test_a_placed_thing_is_moved_rigidly():
    thing = build("desk", np.random.default_rng(1)).put(2.0, 3.0, 0.5, 0.7)
    assert thing.yaw == pytest.approx(0.7)
    origin, right = thing.point(0, 0, 0), thing.point(1, 0, 0)
    np.testing.assert_allclose(origin, (2, 3, 0.5))
    np.testing.assert_allclose(right - origin, (np.cos(0.7), np.sin(0.7), 0))
