"""Files of depth, normals and masks, and their geometry under a zoom."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_mmdet.datasets.nyuv2.maps import (
    decode_depth,
    decode_mask,
    decode_normals,
    encode_depth,
    encode_mask,
    encode_normals,
    encode_png,
    nearest,
    unit_vectors,
    zoom_maps,
)

RNG = np.random.default_rng(0)


def random_normals(*shape: int) -> np.ndarray:
    return unit_vectors(RNG.normal(size=(*shape, 3)).astype(np.float32))


def test_npy_keeps_every_bit_of_the_depth():
    depth = RNG.uniform(0, 10, (5, 7)).astype(np.float32)
    depth[0, :3] = np.nan, np.inf, -1
    np.testing.assert_array_equal(decode_depth(encode_depth(depth), "a.npy"), depth)
    fortran = np.asfortranarray(depth)
    np.testing.assert_array_equal(decode_depth(encode_depth(fortran), "a.npy"), depth)


def test_png_rounds_depth_to_millimetres_and_unknown_values_to_0():
    depth = np.array([[0.0004, 0.0006, 1.2344], [np.nan, np.inf, -2], [65.535, 65.6, 9]])
    read = decode_depth(encode_depth(depth, ".png"), "a.png")
    expected = [[0, 0.001, 1.234], [0, 0, 0], [65.535, 0, 9]]
    np.testing.assert_allclose(read, expected, atol=1e-6)
    assert read.dtype == np.float32


def test_normals_return_up_to_a_step_of_8_bits_and_grey_becomes_zero():
    normals = random_normals(6, 8)
    normals[2, 3] = 0  # written as grey
    read = decode_normals(encode_normals(normals), "a.png")
    assert not read[2, 3].any()
    cosine = (read * normals).sum(-1)
    cosine[2, 3] = 1
    assert np.degrees(np.arccos(cosine.clip(-1, 1))).max() < 0.7
    np.testing.assert_allclose(np.linalg.norm(read, axis=-1).ravel().max(), 1, atol=1e-6)


def test_components_of_normals_are_red_green_and_blue():
    content = encode_normals(np.array([[[1.0, 0, 0], [0, -1.0, 0]]]))
    picture = np.array([[[255, 128, 128], [128, 0, 128]]])
    import cv2

    bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(bgr[..., ::-1], picture)


def test_masks_return():
    mask = RNG.random((4, 9)) > 0.5
    np.testing.assert_array_equal(decode_mask(encode_mask(mask), "a.png"), mask)


def test_files_that_are_no_maps_are_named():
    with pytest.raises(ValueError, match=r"a\.npy is not a complete \.npy file"):
        decode_depth(encode_depth(np.ones((4, 4)))[:-5], "a.npy")
    with pytest.raises(ValueError, match=r"a\.npy is not a complete \.npy file"):
        decode_depth(b"", "a.npy")
    with pytest.raises(ValueError, match=r"a\.png holds uint8 \(4, 4\); expected depth in milli"):
        decode_depth(encode_png(np.ones((4, 4), np.uint8)), "a.png")
    with pytest.raises(ValueError, match=r"a\.png is not an image"):
        decode_normals(b"no picture", "a.png")
    with pytest.raises(ValueError, match="ends with '.npy' or '.png', not '.tif'"):
        encode_depth(np.ones((4, 4)), ".tif")


def test_row_i_of_a_resized_map_is_row_floor_of_i_plus_a_half_times_H_over_h():
    for old, new in ((480, 30), (100, 7), (7, 100), (5, 5), (1, 4)):
        values = np.arange(old)
        expected = np.floor((np.arange(new) + 0.5) * old / new).astype(int)
        np.testing.assert_array_equal(nearest(values[:, None], (new, 1))[:, 0], expected)


def test_a_zoom_moves_points_to_w_times_their_depth():
    """Depth and normal of a plane n . p = c after (X, Y, Z) -> (X, Y, w Z), from moved points."""
    w = 0.6
    points = RNG.normal([0, 0, 5], 1, (3, 3))
    moved = points * [1, 1, w]

    def plane_normal(p):
        normal = np.cross(p[1] - p[0], p[2] - p[0])
        return normal / np.linalg.norm(normal)

    results = {
        "gt_depth": points[:, 2].astype(np.float32)[None],
        "gt_normals": plane_normal(points).astype(np.float32)[None, None],
    }
    zoom_maps(results, w)
    np.testing.assert_allclose(results["gt_depth"][0], moved[:, 2], rtol=1e-6)
    np.testing.assert_allclose(results["gt_normals"][0, 0], plane_normal(moved), atol=1e-6)
    zoom_maps({}, w)  # nothing to change
