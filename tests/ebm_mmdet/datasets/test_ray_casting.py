"""Rays against convex solids: closed forms, and windows that lose nothing."""

import math

import numpy as np
import pytest

from ebm_mmdet.datasets.ray_casting import (
    CLUTTER,
    GROUND,
    NOTHING,
    Convex,
    DepthImage,
    RayGrid,
    box_vertices,
    prism_vertices,
)


def grid(beams=31, columns=61, elevation=(-0.35, 0.25), azimuth=(-0.7, 0.7)):
    return RayGrid(np.linspace(*elevation, beams), np.linspace(*azimuth, columns))


def unit(directions):
    directions = np.asarray(directions, float)
    return directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def test_a_sphere_of_many_faces_is_met_where_the_quadratic_says():
    rng = np.random.default_rng(0)
    centre, radius = np.array([10.0, 2.0, -1.0]), 1.5
    solid = Convex.hull(radius * unit(rng.standard_normal((3000, 3)))).placed(0.4, centre)
    rays = unit(centre + rng.uniform(-2.2, 2.2, (400, 3)))
    distance, cosine = solid.first_hit(rays)
    along = rays @ centre
    discriminant = along**2 - centre @ centre + radius**2
    clear = np.abs(discriminant) > 0.15  # near the rim the polyhedron is too coarse
    assert 50 < (discriminant > 0.15).sum() < 350
    np.testing.assert_array_equal(np.isfinite(distance)[clear], (discriminant > 0)[clear])
    met = discriminant > 0.15
    expected = along[met] - np.sqrt(discriminant[met])
    np.testing.assert_allclose(distance[met], expected, atol=0.03)
    normal = (rays[met] * expected[:, None] - centre) / radius
    np.testing.assert_allclose(cosine[met], -(rays[met] * normal).sum(1), atol=0.1)


def test_box_faces_and_parallel_rays():
    solid = Convex.hull(box_vertices((4.0, -1.0, -1.0), (6.0, 1.0, 1.0)))
    assert len(solid.normals) == 6
    rays = unit([[1, 0, 0], [4, 0.99, 0], [4, 1.01, 0], [-1, 0, 0], [0, 1, 0]])
    distance, cosine = solid.first_hit(rays)
    np.testing.assert_allclose(distance[:2], [4, math.hypot(4, 0.99)], rtol=1e-12)
    assert np.isinf(distance[2:]).all()
    np.testing.assert_allclose(cosine[:2], [1, 4 / math.hypot(4, 0.99)], rtol=1e-12)
    beside = Convex.hull(box_vertices((4.0, 2.0, -1.0), (6.0, 3.0, 1.0)))
    assert np.isinf(beside.first_hit(rays[:1])[0]).all()
    around = Convex.hull(box_vertices((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)))
    assert np.isinf(around.first_hit(rays)[0]).all()


def test_the_face_is_the_plane_on_which_the_hit_lies():
    """n_face · (t d) = o_face and the same t as first_hit, bit for bit."""
    rng = np.random.default_rng(1)
    solid = Convex.hull(rng.uniform(-1, 1, (30, 3))).placed(0.3, (4.0, 0.2, 0.1))
    rays = unit(np.array([4.0, 0, 0]) + rng.uniform(-1.5, 1.5, (300, 3)))
    distance, face = solid.first_face(rays)
    hits, cosine = solid.first_hit(rays)
    np.testing.assert_array_equal(distance, hits)
    met = np.isfinite(distance)
    assert 50 < met.sum() < 290
    points = rays[met] * distance[met][:, None]
    normals = solid.normals[face[met]]
    np.testing.assert_allclose((normals * points).sum(1), solid.offsets[face[met]], atol=1e-12)
    np.testing.assert_allclose(-(normals * rays[met]).sum(1), cosine[met], atol=1e-12)
    # Multiples of a direction are in units of its length.
    longer, same = solid.first_face(3 * rays)
    np.testing.assert_allclose(longer[met] * 3, distance[met], rtol=1e-12)
    np.testing.assert_array_equal(same[met], face[met])


def test_a_ray_from_inside_leaves_through_the_nearest_plane_ahead():
    room = Convex.hull(box_vertices((-1.0, -2.0, -3.0), (4.0, 5.0, 6.0)))
    rays = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 2, 0], [0, 0, -1], [1, 1, 0]])
    multiple, face = room.last_face(rays)
    np.testing.assert_allclose(multiple, [4, 1, 2.5, 3, 4])
    expected = [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, -1], [1, 0, 0]]
    np.testing.assert_allclose(room.normals[face], expected, atol=1e-12)
    with pytest.raises(ValueError, match="1 m outside"):
        room.placed(0, (2.0, 0, 0)).last_face(rays)


def test_moving_by_a_matrix_is_placing_by_its_angle():
    solid = Convex.hull(prism_vertices(0.5, -1.0, 1.0))
    turn = np.array(
        [[math.cos(0.4), -math.sin(0.4), 0], [math.sin(0.4), math.cos(0.4), 0], [0, 0, 1]]
    )
    first, second = solid.placed(0.4, (1, 2, 3)), solid.moved(turn, (1, 2, 3))
    for name in ("vertices", "normals", "offsets"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("seed", range(20))
def test_the_window_holds_every_ray_that_meets_the_solid(seed):
    rng = np.random.default_rng(seed)
    rays = grid()
    position = [rng.uniform(0.5, 20), rng.uniform(-8, 8), rng.uniform(-3, 3)]
    size = rng.uniform(0.1, 5, 3)
    solid = Convex.hull(box_vertices(-size, size)).placed(rng.uniform(-3, 3), position)
    met = np.isfinite(solid.first_hit(rays.directions())[0])
    window = rays.window(solid.vertices)
    inside = np.zeros_like(met)
    if window is not None:
        inside[window] = True
    assert not (met & ~inside).any()


def test_ground_is_the_plane():
    image = DepthImage(grid())
    slope = np.array([0.02, -0.01])
    image.add_ground(-1.7, slope, reflectance=0.3)
    hit = image.source == GROUND
    points = image.directions[hit] * image.distance[hit][:, None]
    assert len(points) > 100
    np.testing.assert_allclose(points[:, 2], points[:, :2] @ slope - 1.7, atol=1e-9)
    assert (image.source[image.directions[..., 2] > 0.03] == NOTHING).all()


def test_nearer_hides_farther_in_any_order():
    near = [Convex.hull(prism_vertices(0.5, -1.0, 1.0)).placed(0, (5.0, 0.0, 0.0))]
    far = [Convex.hull(prism_vertices(2.0, -1.0, 1.0)).placed(0, (9.0, 0.3, 0.0))]
    images = []
    for order in ((0, 1), (1, 0)):
        image = DepthImage(grid())
        image.add_ground(-1.5, (0, 0), 0.3)
        rays = {number: image.add((near, far)[number], number) for number in order}
        images.append((image.distance, image.source, rays[0], rays[1]))
    for first, second in zip(*images):
        np.testing.assert_array_equal(first, second)
    _, source, met_near, met_far = images[0]
    np.testing.assert_array_equal(source == 0, met_near)  # nothing is before it
    np.testing.assert_array_equal(source == 1, met_far & ~met_near)
    assert (met_far & met_near).any()


def test_what_is_below_the_ground_is_not_met():
    image = DepthImage(grid())
    image.add_ground(-1.5, (0, 0), 0.3)
    solid = Convex.hull(box_vertices((8.0, -1.0, -4.0), (10.0, 1.0, -2.0)))
    assert not image.add([solid], CLUTTER).any()
    assert not (image.source == CLUTTER).any()
