"""The generator: exact boxes around what it renders, occlusion, density, reproducibility."""

import math
from dataclasses import replace

import numpy as np
import pytest

from ebm_mmdet.datasets.footprints import overlap, rectangle
from ebm_mmdet.datasets.ray_casting import CLUTTER, GROUND, DepthImage
from ebm_mmdet3d.datasets.kitti_geometry import points_in_boxes
from ebm_mmdet3d.datasets.lidar_scenes import (
    CLASSES,
    Lidar,
    SceneOptions,
    render_scene,
)
from ebm_mmdet3d.datasets.solids import VEHICLES, draw_vehicle

EXACT = Lidar(range_noise=0.0, dropout=0.0)
QUIET = SceneOptions(lidar=EXACT)
ALONE = SceneOptions(num_vehicles=(1, 1), num_clutter=(0, 0), lidar=EXACT)


def scenes(options, count=6, seed=0):
    return [render_scene(seed, index, options) for index in range(count)]


@pytest.mark.parametrize("kind", VEHICLES)
def test_the_box_of_a_vehicle_is_the_tight_box_of_its_surface(kind):
    for seed in range(5):
        (length, width, height), parts = draw_vehicle(np.random.default_rng(seed), kind)
        vertices = np.concatenate([part.vertices for part in parts])
        expected = [[-length / 2, -width / 2, 0], [length / 2, width / 2, height]]
        np.testing.assert_allclose([vertices.min(0), vertices.max(0)], expected, atol=1e-12)


def test_front_and_rear_differ():
    for kind in VEHICLES:
        _, parts = draw_vehicle(np.random.default_rng(0), kind)
        vertices = np.concatenate([part.vertices for part in parts])
        roof = vertices[vertices[:, 2] > 0.95 * vertices[:, 2].max()]
        assert roof[:, 0].mean() < -0.05 * vertices[:, 0].max()


def test_a_vehicle_seen_from_all_sides_fills_its_box():
    """Exactness of the box, from the points: noise-free returns reach every face but the bottom."""
    lidar = Lidar(num_beams=200, elevation=(-30, 10), azimuth_step=0.1, range_noise=0, dropout=0)
    size, parts = draw_vehicle(np.random.default_rng(3), "saloon")
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for yaw in np.arange(16) * (2 * math.pi / 16):
        image = DepthImage(lidar.rays(np.random.default_rng(0)))
        position = np.array([9.0, 0.0, -1.73])
        image.add([part.placed(yaw, position) for part in parts], 0)
        points = (image.directions * image.distance[..., None])[image.source == 0] - position
        cos, sin = math.cos(yaw), math.sin(yaw)
        local = points @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        low, high = np.minimum(low, local.min(0)), np.maximum(high, local.max(0))
    np.testing.assert_allclose(high - low, size, atol=0.03)
    assert (high <= size * [0.5, 0.5, 1] + 1e-9).all()
    assert (low >= size * [-0.5, -0.5, 0] - 1e-9).all()


def test_noise_free_points_of_a_vehicle_lie_in_its_box_and_in_no_other():
    for scene in scenes(QUIET):
        inside = points_in_boxes(scene.points, scene.boxes, margin=1e-5)
        for number in range(len(scene.boxes)):
            assert inside[scene.source == number, number].all()
        assert not inside[scene.source == CLUTTER].any()
        # Ground is at the bottom of a box, at most the slope's share above it.
        rows, columns = np.nonzero(inside & (scene.source == GROUND)[:, None])
        assert (scene.points[rows, 2] - scene.boxes[columns, 2] < 0.1).all()


def test_number_of_points_per_box():
    for scene in scenes(QUIET):
        counted = [(scene.source == number).sum() for number in range(len(scene.boxes))]
        np.testing.assert_array_equal(scene.hits, counted)
        # Counted in the box, as KITTI's info files do: the same but for the ground.
        above = scene.points[scene.source != GROUND]
        inside = points_in_boxes(above, scene.boxes, margin=1e-5).sum(0)
        np.testing.assert_array_equal(inside, scene.hits)


def test_sensor_noise_is_along_the_ray_and_has_the_stated_size():
    noisy = replace(QUIET, lidar=replace(EXACT, range_noise=0.05))
    for seed in range(3):
        # The same rays return: noise is drawn after that is decided.
        clean, scene = render_scene(seed, 0, QUIET), render_scene(seed, 0, noisy)
        shift = scene.points[:, :3].astype(float) - clean.points[:, :3]
        direction = clean.points[:, :3] / np.linalg.norm(clean.points[:, :3], axis=1)[:, None]
        along = (shift * direction).sum(1)
        assert along.std() == pytest.approx(0.05, rel=0.05)
        assert np.abs(shift - along[:, None] * direction).max() < 1e-4
        assert scene.points[:, 3].min() >= 0
        assert scene.points[:, 3].max() <= 1


def test_boxes_do_not_touch():
    for scene in scenes(SceneOptions(num_vehicles=(15, 15))):
        rectangles = [rectangle(b[0], b[1], b[6], b[3], b[4]) for b in scene.boxes]
        for i, first in enumerate(rectangles):
            assert not any(overlap(first, second) for second in rectangles[:i])


def test_rectangles_overlap_like_their_areas():
    shapely = pytest.importorskip("shapely.geometry", reason="the second opinion")
    rng = np.random.default_rng(0)
    answers = []
    for _ in range(300):
        a, b = (
            rectangle(*rng.uniform(-3, 3, 2), rng.uniform(-3, 3), *rng.uniform(0.5, 4, 2))
            for _ in range(2)
        )
        answers.append(overlap(a, b))
        assert answers[-1] == shapely.Polygon(a).intersects(shapely.Polygon(b))
    assert 0.1 < np.mean(answers) < 0.9


def test_occlusion_is_the_share_of_rays_that_something_else_catches():
    """Without clutter and with one vehicle nothing is hidden; with a crowd something is."""
    for scene in scenes(ALONE, 12):
        assert (scene.occlusion[scene.hits > 0] == 0).all()
    crowd = scenes(SceneOptions(num_vehicles=(14, 14), num_clutter=(20, 20), lidar=EXACT), 8)
    shares = np.concatenate([scene.occlusion for scene in crowd])
    hits = np.concatenate([scene.hits for scene in crowd])
    assert ((shares >= 0) & (shares <= 1)).all()
    assert ((shares > 0.1) & (shares < 0.9)).sum() > 10
    assert (hits[shares == 1] == 0).all()


def test_density_falls_with_the_square_of_the_range():
    found = scenes(replace(ALONE, extent=(5, -15, 60, 15)), 150)
    kept = [s for s in found if len(s.boxes) and s.hits[0] > 20]
    distance = np.array([np.hypot(*s.boxes[0, :2]) for s in kept])
    # Density on the surface: points per square metre of silhouette, up to a factor.
    density = np.array([s.hits[0] / s.boxes[0, 3:6].prod() ** (2 / 3) for s in kept])
    slope = np.polyfit(np.log(distance), np.log(density), 1)[0]
    assert len(kept) > 60
    assert slope == pytest.approx(-2, abs=0.35)


def test_same_arguments_same_scene_and_other_index_other_scene():
    options = SceneOptions()
    first, again = render_scene(3, 5, options), render_scene(3, 5, options)
    for name in ("points", "source", "boxes", "labels", "occlusion", "hits"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    for other in (render_scene(3, 6, options), render_scene(4, 5, options)):
        assert other.boxes.shape != first.boxes.shape or (other.boxes != first.boxes).all()


def test_shapes_types_and_ranges():
    labels = []
    for scene in scenes(SceneOptions(), 20):
        assert scene.points.dtype == np.float32
        assert scene.points.shape == (len(scene.source), 4)
        assert np.isfinite(scene.points).all()
        assert scene.boxes.shape == (len(scene.labels), 7)
        assert ((scene.boxes[:, 6] >= -math.pi) & (scene.boxes[:, 6] < math.pi)).all()
        labels += scene.labels.tolist()
    assert set(labels) == set(range(len(CLASSES)))


def test_a_scene_may_be_empty():
    scene = render_scene(0, 0, SceneOptions(num_vehicles=(0, 0), num_clutter=(0, 0)))
    assert scene.boxes.shape == (0, 7)
    assert len(scene.occlusion) == len(scene.hits) == 0
    assert (scene.source == GROUND).all()


def test_options_from_a_config_and_errors():
    options = SceneOptions.from_config(
        dict(extent=[6, -10, 30, 10], lidar=dict(num_beams=8, elevation=[-10, 0]))
    )
    expected = Lidar(num_beams=8, elevation=(-10, 0))
    assert options == SceneOptions(extent=(6, -10, 30, 10), lidar=expected)
    assert SceneOptions.from_config(None) == SceneOptions()
    with pytest.raises(ValueError, match=r"extent=\(0, -1, 5, 1\)"):
        SceneOptions(extent=(0, -1, 5, 1))
    with pytest.raises(ValueError, match="seed=-1"):
        render_scene(-1, 0)
