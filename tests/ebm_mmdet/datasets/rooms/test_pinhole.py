"""The camera: closed forms of a wall and a box, and the plain definition of a ray's first solid."""

import math

import numpy as np
import pytest

from ebm_mmdet.datasets.ray_casting import Convex, box_vertices
from ebm_mmdet.datasets.rooms.pinhole import PinholeCamera, SurfaceImage, inverse_planes
from ebm_mmdet.datasets.rooms.solids import rotation_about_x

CAMERA = PinholeCamera((37, 52), 40.0)
ROOM = Convex.hull(box_vertices((-3.0, -1.5, -5.0), (3.0, 1.5, 2.0)))


def planes(solid):
    return inverse_planes(solid.normals, solid.offsets), solid.offsets < 0


def image(*solids, room=ROOM):
    result, first = SurfaceImage(CAMERA), len(room.normals)
    result.add_room(room)
    for solid in solids:
        window = CAMERA.windows(solid.vertices, np.array([0]))[0]
        result.add(*planes(solid), window, first)
        first += len(solid.normals)
    return result


def random_solid(rng, near=0.4):
    """A box in any direction, mostly in front of the camera."""
    size = rng.uniform(0.05, 1.0, 3)
    solid = Convex.hull(box_vertices(-size, size)).placed(rng.uniform(-3, 3), (0, 0, 0))
    position = (rng.uniform(-2, 2), rng.uniform(-1.5, 1.5), -rng.uniform(near, 5))
    return solid.moved(rotation_about_x(rng.uniform(-3, 3)), position)


def test_rays_go_through_the_centres_of_pixels():
    rays = CAMERA.rays()
    assert rays.shape == (37, 52, 3)
    rows, columns = np.mgrid[:37, :52] + 0.5
    np.testing.assert_allclose(CAMERA.project(rays * 3.7)[..., 0], columns, atol=1e-12)
    np.testing.assert_allclose(CAMERA.project(rays * 3.7)[..., 1], rows, atol=1e-12)


def test_a_wall_across_the_axis_has_one_depth():
    seen = image()
    ahead = np.abs(ROOM.normals[seen.face] - (0, 0, -1)).max(-1) < 1e-9
    assert ahead.sum() > 100
    np.testing.assert_allclose(seen.depth[ahead], 5.0, rtol=1e-12)


def test_an_oblique_wall_is_the_plane():
    """depth = o / (n · d) of the plane {p : n · p = o} and the direction d with z = -1."""
    turned = ROOM.placed(0.7, (0.2, 0.1, 0.0)).moved(rotation_about_x(0.3), (0, 0, 0))
    seen = image(room=turned)
    points = CAMERA.rays() * seen.depth[..., None]
    n, o = turned.normals[seen.face], turned.offsets[seen.face]
    np.testing.assert_allclose((n * points).sum(-1), o, atol=1e-12)
    assert ((turned.normals @ points.reshape(-1, 3).T) <= turned.offsets[:, None] + 1e-9).all()


def test_a_box_is_seen_at_its_front_face():
    x, y, z = 0.5, 0.3, -2.0
    seen = image(Convex.hull(box_vertices((-x, -y, z - 1), (x, y, z))))
    rays = CAMERA.rays() * -z
    front = (np.abs(rays[..., 0]) < x) & (np.abs(rays[..., 1]) < y)
    assert front.sum() > 100
    np.testing.assert_allclose(seen.depth[front], -z, rtol=1e-12)
    np.testing.assert_array_equal(seen.face >= 6, front)  # its other faces are hidden behind it


@pytest.mark.parametrize("seed", range(8))
def test_planes_in_the_inverse_depth_are_the_plain_definition(seed):
    """1 / depth = max over solids of min over planes in front; see Convex.first_face."""
    rng = np.random.default_rng(seed)
    solids = [random_solid(rng) for _ in range(6)]
    seen = image(*solids)
    depth, face = ROOM.last_face(CAMERA.rays())
    first = len(ROOM.normals)
    for solid in solids:
        found, plane = solid.first_face(CAMERA.rays())
        nearer = found < depth
        depth, face = np.where(nearer, found, depth), np.where(nearer, plane + first, face)
        first += len(solid.normals)
    same = np.abs(seen.depth / depth - 1) < 1e-9
    assert same.mean() > 0.999  # a ray along an edge may be on either side of it
    np.testing.assert_array_equal(seen.face[same], face[same])


@pytest.mark.parametrize("seed", range(12))
def test_the_window_holds_every_pixel_of_the_solid_and_no_empty_margin(seed):
    rng = np.random.default_rng(100 + seed)
    near = -1.0 if seed % 2 else 0.4  # half of them may be around the camera or behind it
    solid = random_solid(rng, near)
    met = np.isfinite(solid.first_face(CAMERA.rays())[0])
    depth = solid.first_face(CAMERA.rays())[0]
    met &= depth > 0.06
    top, bottom, left, right = CAMERA.windows(solid.vertices, np.array([0]))[0]
    inside = np.zeros_like(met)
    inside[top:bottom, left:right] = True
    assert not (met & ~inside).any()
    if met.sum() > 30 and near > 0 and (solid.vertices[:, 2] < -0.1).all():
        rows, columns = np.flatnonzero(met.any(1)), np.flatnonzero(met.any(0))
        slack = [rows[0] - top, bottom - 1 - rows[-1], columns[0] - left, right - 1 - columns[-1]]
        assert max(slack) <= 3


def test_windows_of_several_solids_are_those_of_each():
    rng = np.random.default_rng(3)
    solids = [random_solid(rng, near=-2.0) for _ in range(20)]
    start = np.cumsum([0, *(len(s.vertices) for s in solids)])[:-1]
    together = CAMERA.windows(np.concatenate([s.vertices for s in solids]), start)
    alone = [CAMERA.windows(s.vertices, np.array([0]))[0] for s in solids]
    np.testing.assert_array_equal(together, alone)
    assert (together[:, 1] == 0).any()
    assert (together[:, 1] > 0).any()


def test_nearer_hides_farther_in_any_order():
    near = Convex.hull(box_vertices((-0.3, -0.3, -2.2), (0.3, 0.3, -2.0)))
    far = Convex.hull(box_vertices((-0.6, -0.4, -4.2), (0.5, 0.4, -4.0)))
    first, second = image(near, far), image(far, near)
    np.testing.assert_array_equal(first.depth, second.depth)
    assert (first.depth < 2.1).any()
    assert ((first.depth > 3.9) & (first.depth < 4.1)).any()


def test_a_solid_around_the_camera_is_not_seen():
    around = Convex.hull(box_vertices((-0.4, -0.4, -0.4), (0.4, 0.4, 0.4)))
    np.testing.assert_array_equal(image(around).depth, image().depth)


def test_a_camera_outside_the_room_is_an_error():
    with pytest.raises(ValueError, match=r"0\.5 m outside"):
        image(room=Convex.hull(box_vertices((-1, -1, 0.5), (1, 1, 2))))


def test_alone_is_what_the_walls_do_not_hide():
    seen, solid = SurfaceImage(CAMERA), random_solid(np.random.default_rng(4))
    seen.add_room(ROOM)
    seen.inverse_depth[:] = math.inf  # something nearer everywhere
    alone = np.zeros(CAMERA.image_size, bool)
    window = CAMERA.windows(solid.vertices, np.array([0]))[0]
    seen.add(*planes(solid), window, 6, alone)
    before = solid.first_face(CAMERA.rays())[0] < ROOM.last_face(CAMERA.rays())[0]
    np.testing.assert_array_equal(alone, before)
    assert alone.any()
    assert not (seen.face >= 6).any()
