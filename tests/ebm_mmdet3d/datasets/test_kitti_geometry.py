"""Frames, images and labels of KITTI, against mmdet3d where it has the same."""

import numpy as np
import pytest

from ebm_mmdet3d.datasets.kitti_geometry import (
    SYNTHETIC_CAMERA,
    Camera,
    box_corners,
    difficulty,
    image_boxes,
    in_image,
    occlusion_level,
    points_in_boxes,
    wrap_angle,
)


def boxes(count, seed=0):
    rng = np.random.default_rng(seed)
    low, high = [5, -8, -2, 3, 1.4, 1.3, -np.pi], [50, 8, -1, 5, 2, 2, np.pi]
    return rng.uniform(low, high, (count, 7))


def tilted_camera():
    """Nothing is aligned with anything, as in a recording."""
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(np.eye(3) + 0.02 * rng.standard_normal((3, 3)))
    turn *= np.sign(np.diag(turn))
    matrix = SYNTHETIC_CAMERA.lidar_to_camera.copy()
    matrix[:3, :3] = turn @ matrix[:3, :3]
    projection = SYNTHETIC_CAMERA.projection + np.array(
        [[0, 0, 0, 45.0], [0] * 4, [0, 0, 0, 0.003]]
    )
    return Camera(projection, matrix, (375, 1242))


def test_boxes_to_the_camera_and_back():
    for camera in (SYNTHETIC_CAMERA, tilted_camera()):
        original = boxes(20)
        again = camera.boxes_to_lidar(camera.boxes_to_camera(original))
        again[:, 6] = original[:, 6] + wrap_angle(again[:, 6] - original[:, 6])
        np.testing.assert_allclose(again, original, atol=1e-12)


def test_boxes_to_the_camera_as_mmdet3d_has_it():
    structures = pytest.importorskip("mmdet3d.structures", reason="the second opinion")
    torch = pytest.importorskip("torch")
    camera, original = tilted_camera(), boxes(20)
    theirs = structures.LiDARInstance3DBoxes(torch.from_numpy(original)).convert_to(
        structures.Box3DMode.CAM, torch.from_numpy(camera.lidar_to_camera).float()
    )
    ours = camera.boxes_to_camera(original)
    np.testing.assert_allclose(ours[:, :6], theirs.tensor[:, :6].numpy(), atol=1e-5)
    difference = wrap_angle(ours[:, 6] - theirs.tensor[:, 6].double().numpy())
    np.testing.assert_allclose(difference, 0, atol=1e-5)


def test_corners_and_points_in_boxes():
    some = boxes(10)
    corners = box_corners(some)
    inside = points_in_boxes(corners.reshape(-1, 3), some, margin=1e-9).reshape(10, 8, 10)
    assert all(inside[i, :, i].all() for i in range(10))
    centre = some[:, :3] + some[:, 5:6] * [0, 0, 0.5]
    shrunk = centre[:, None] + 0.999 * (corners - centre[:, None])
    grown = centre[:, None] + 1.001 * (corners - centre[:, None])
    for points, expected in ((shrunk, True), (grown, False)):
        found = points_in_boxes(points.reshape(-1, 3), some).reshape(10, 8, 10)
        assert all((found[i, :, i] == expected).all() for i in range(10))
    assert points_in_boxes(corners[0], some[:0]).shape == (8, 0)
    assert points_in_boxes(corners[0, :0], some).shape == (0, 10)


def test_points_in_boxes_as_mmcv_has_it():
    ops = pytest.importorskip("mmcv.ops", reason="the second opinion")
    torch = pytest.importorskip("torch")
    some, rng = boxes(8), np.random.default_rng(1)
    points = rng.uniform([0, -10, -3], [55, 10, 2], (20000, 3))
    theirs = ops.points_in_boxes_cpu(
        torch.from_numpy(points).float()[None], torch.from_numpy(some).float()[None]
    )[0].bool()
    ours = points_in_boxes(points, some)
    border = points_in_boxes(points, some, 1e-3) ^ points_in_boxes(points, some, -1e-3)
    assert ours.sum() > 100
    np.testing.assert_array_equal(ours[~border], theirs.numpy()[~border])


def test_projection_of_known_points():
    camera = SYNTHETIC_CAMERA
    pixels, depth = camera.project(np.array([[10.27, 0.0, -0.08], [10.27, -1.0, -0.58]]))
    np.testing.assert_allclose(depth, 10)
    np.testing.assert_allclose(pixels, [[621, 187.5], [693, 223.5]], atol=1e-9)
    points = np.array([[10.0, 0, 0, 9], [-10.0, 0, 0, 9], [10.0, 9.0, 0, 9], [1.0, 0, 5.0, 9]])
    assert in_image(points, camera).tolist() == [True, False, False, False]


def test_image_boxes_hold_the_projected_solid_and_truncation_is_what_is_cut():
    camera, some = SYNTHETIC_CAMERA, boxes(30)
    flat, truncation = image_boxes(some, camera)
    for box, rectangle, share in zip(some, flat, truncation):
        pixels, _ = camera.project(box_corners(box[None])[0])
        height, width = camera.image_shape
        seen = (pixels >= 0).all() and (pixels <= (width, height)).all()
        assert (share == pytest.approx(0, abs=1e-12)) == seen
        if seen:
            np.testing.assert_allclose(rectangle, [*pixels.min(0), *pixels.max(0)])
    half = np.array([[20.0, 0.0, -1.7, 4.0, 2.0, 1.5, 0.0]])
    left = half.copy()
    left[0, 1] = (20.0 - 0.27) * 621 / 720  # its centre plane goes through the image's left border
    assert image_boxes(half, camera)[1][0] == 0
    assert 0.4 < image_boxes(left, camera)[1][0] < 0.6
    assert image_boxes(half * [-1, 1, 1, 1, 1, 1, 1], camera)[1][0] == 1
    assert image_boxes(some[:0], camera)[0].shape == (0, 4)


def test_difficulty_as_mmdet3d_has_it():
    rng = np.random.default_rng(0)
    height, level = rng.uniform(10, 60, 500), rng.integers(0, 4, 500)
    truncation = rng.choice([0, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6], 500)
    height[:20] = np.repeat([25.0, 40.0], 10)  # exactly at a limit is below it
    ours = difficulty(height, level, truncation)
    assert set(ours) == {-1, 0, 1, 2}
    pytest.importorskip("mmdet3d", reason="the second opinion")
    from dataset_converters.kitti_preparation import _converters

    annos = dict(
        dimensions=np.zeros((500, 3)),
        bbox=np.column_stack([np.zeros((500, 3)), height]),
        occluded=level,
        truncated=truncation,
    )
    with _converters() as converter:
        converter("kitti_data_utils").add_difficulty_to_annos(dict(annos=annos))
    np.testing.assert_array_equal(ours, annos["difficulty"])


def test_occlusion_levels_and_angles():
    assert occlusion_level(np.array([0, 0.09, 0.1, 0.49, 0.5, 0.89, 0.9, 1])).tolist() == [
        *(0, 0, 1, 1, 2, 2, 3, 3)
    ]
    angles = wrap_angle(np.array([np.pi, -np.pi, 3 * np.pi / 2, 0.3]))
    np.testing.assert_allclose(angles, [-np.pi, -np.pi, -np.pi / 2, 0.3])
