"""One geometry for image, boxes, masks, depth, normals and the mask of the normals."""

from __future__ import annotations

import copy
import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.transforms.utils import cache_random_params
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks

from ebm_mmdet.datasets.nyuv2 import (
    AuxiliaryTargets,
    LoadAuxiliaryMaps,
    PackMultiTaskInputs,
    RandomFlipWithMaps,
    ResizeWithMaps,
    ROCKColorJitter,
    ROCKRandomCrop,
    write_sample,
)
from ebm_mmdet.datasets.nyuv2.maps import MAPS, unit_vectors
from tests.tolerances import TOLERANCE

HEIGHT, WIDTH = 48, 64
BOXES = [[4, 6, 30, 40], [20, 10, 60, 44], [50, 2, 51, 3]]


def make_results(boxes=BOXES, height=HEIGHT, width=WIDTH, seed=0) -> dict:
    """Results in which every map says where a pixel was: channel 0 and the depth."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, rng.integers(0, 255, rows.shape)], -1).astype(np.uint8)
    masks = np.zeros((len(boxes), height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = 1
    return {
        "img": image,
        "img_shape": (height, width),
        "ori_shape": (height, width),
        "img_id": 1,
        "img_path": "a.png",
        "gt_bboxes": HorizontalBoxes(np.array(boxes, np.float32).reshape(-1, 4)),
        "gt_bboxes_labels": np.arange(len(boxes)),
        "gt_ignore_flags": np.zeros(len(boxes), bool),
        "gt_masks": BitmapMasks(masks, height, width),
        "gt_depth": (1 + rows * width + columns).astype(np.float32),
        "gt_normals": unit_vectors(rng.normal(size=(height, width, 3))),
        "gt_normals_mask": rng.random((height, width)) > 0.2,
        "gt_scene": 2,
    }


def assert_same(a: dict, b: dict) -> None:
    for key in ("img", "gt_bboxes_labels", *MAPS):
        np.testing.assert_array_equal(a[key], b[key])
    torch.testing.assert_close(a["gt_bboxes"].tensor, b["gt_bboxes"].tensor, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(a["gt_masks"].masks, b["gt_masks"].masks)


def mask_boxes(results: dict) -> np.ndarray:
    """The boxes of the masks, half-open."""
    found = []
    for mask in results["gt_masks"].masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        found.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return np.array(found, np.float32).reshape(-1, 4)


@pytest.mark.parametrize("settings", [dict(stride=16), dict(size=(30, 40))])
def test_maps_that_are_smaller_than_the_image_are_not_cropped_by_its_pixels(settings):
    results = AuxiliaryTargets(**settings)(make_results())
    with pytest.raises(ValueError, match=r"ROCKRandomCrop .*gt_depth .*AuxiliaryTargets behind"):
        ROCKRandomCrop()(results)


@pytest.mark.parametrize("direction", ["horizontal", "vertical", "diagonal"])
def test_flipping_twice_is_the_identity(direction):
    flip = RandomFlipWithMaps(prob=1.0, direction=direction)
    before = make_results()
    assert_same(flip(flip(copy.deepcopy(before))), before)


def test_a_horizontal_flip_negates_x_and_moves_everything_alike():
    before = make_results()
    after = RandomFlipWithMaps(prob=1.0)(copy.deepcopy(before))
    np.testing.assert_array_equal(after["img"], before["img"][:, ::-1])
    np.testing.assert_array_equal(after["gt_depth"], before["gt_depth"][:, ::-1])
    np.testing.assert_array_equal(after["gt_normals_mask"], before["gt_normals_mask"][:, ::-1])
    x, y, z = np.moveaxis(before["gt_normals"][:, ::-1], -1, 0)
    np.testing.assert_array_equal(after["gt_normals"], np.stack([-x, y, z], -1))
    np.testing.assert_array_equal(mask_boxes(after), after["gt_bboxes"].tensor.numpy())


def test_a_vertical_flip_negates_y():
    before = make_results()
    after = RandomFlipWithMaps(prob=1.0, direction="vertical")(copy.deepcopy(before))
    x, y, z = np.moveaxis(before["gt_normals"][::-1], -1, 0)
    np.testing.assert_array_equal(after["gt_normals"], np.stack([x, -y, z], -1))


def test_without_a_flip_nothing_changes():
    before = make_results()
    assert_same(RandomFlipWithMaps(prob=0.0)(copy.deepcopy(before)), before)


def test_a_resize_takes_the_nearest_value_and_keeps_depth():
    before = make_results()
    after = ResizeWithMaps(scale=(2 * WIDTH, 2 * HEIGHT))(copy.deepcopy(before))
    assert after["img"].shape[:2] == after["img_shape"] == (2 * HEIGHT, 2 * WIDTH)
    for key in MAPS:
        np.testing.assert_array_equal(after[key], before[key].repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(mask_boxes(after), after["gt_bboxes"].tensor.numpy())


def crop_place(results: dict) -> tuple[int, int, int, int]:
    """Where a crop was, from the image's first two channels."""
    top, left = (int(v) for v in results["img"][0, 0, :2])
    height, width = results["img"].shape[:2]
    return left, top, left + width, top + height


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_crop(seed, force):
    """Everything is cut at the same place; depth' = w depth; n' = (x, y, z / w) / |.|."""
    random.seed(seed)
    before = make_results()
    after = ROCKRandomCrop(force_crops=force)(copy.deepcopy(before))
    left, top, right, bottom = crop_place(after)
    window = (slice(top, bottom), slice(left, right))
    np.testing.assert_array_equal(after["img"], before["img"][window])
    np.testing.assert_array_equal(after["gt_normals_mask"], before["gt_normals_mask"][window])
    w = np.sqrt((right - left) * (bottom - top) / (WIDTH * HEIGHT))
    np.testing.assert_allclose(after["gt_depth"], before["gt_depth"][window] * w, rtol=1e-6)
    x, y, z = np.moveaxis(before["gt_normals"][window].astype(np.float64), -1, 0)
    length = np.sqrt(x**2 + y**2 + (z / w) ** 2)
    expected = np.stack([x, y, z / w], -1) / length[..., None]
    np.testing.assert_allclose(after["gt_normals"], expected, atol=1e-6)
    # The aspect ratio is that of the image, up to whole pixels.
    assert abs((right - left) / WIDTH - (bottom - top) / HEIGHT) <= 0.5 / WIDTH + 0.5 / HEIGHT
    # Boxes with their centre inside are kept and clipped.
    boxes = np.array(BOXES, np.float64)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    keep = ((centres > [left, top]) & (centres < [right, bottom])).all(1)
    assert keep.any()
    np.testing.assert_array_equal(after["gt_bboxes_labels"], np.flatnonzero(keep))
    moved = np.clip(
        boxes[keep] - [left, top, left, top], 0, np.tile([right - left, bottom - top], 2)
    )
    np.testing.assert_allclose(after["gt_bboxes"].tensor.numpy(), moved)
    np.testing.assert_array_equal(mask_boxes(after), moved)


def test_all_boxes_exceed_the_iou_of_the_option():
    """With one option, every crop has that IoU with every box, by a plain computation."""
    boxes = [[2, 2, 40, 40], [20, 4, 62, 46]]
    for seed in range(30):
        random.seed(seed)
        transform = ROCKRandomCrop(min_ious=(0.3,))
        transform.options = (0.3,)
        left, top, right, bottom = crop_place(transform(make_results(boxes)))
        for x1, y1, x2, y2 in boxes:
            overlap = max(min(right, x2) - max(left, x1), 0) * max(
                min(bottom, y2) - max(top, y1), 0
            )
            union = (right - left) * (bottom - top) + (x2 - x1) * (y2 - y1) - overlap
            assert overlap / union > 0.3


def test_the_options_are_eight_of_equal_probability_and_six_if_crops_are_forced():
    assert ROCKRandomCrop().options == (0.1, 0.3, 0.5, 0.7, 0.9, None, None, "no crop")
    assert ROCKRandomCrop(force_crops=True).options == (0.1, 0.3, 0.5, 0.7, 0.9, None)


def test_sides_are_the_root_of_a_uniform_share_of_the_area():
    random.seed(0)
    crop = ROCKRandomCrop()
    areas = []
    for _ in range(4000):
        left, top, right, bottom = crop._sample_patch(480, 640)
        assert 0 <= left < right <= 640
        assert 0 <= top < bottom <= 480
        areas.append((right - left) * (bottom - top) / (480 * 640))
    quantiles = np.quantile(areas, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(quantiles, [0.1, 0.325, 0.55, 0.775, 1], atol=0.02)


def test_an_image_without_a_box_is_not_cropped():
    for force, seed in itertools.product((False, True), range(20)):
        random.seed(seed)
        before = make_results([])
        assert_same(ROCKRandomCrop(force_crops=force)(copy.deepcopy(before)), before)


def test_ignored_boxes_are_cropped_but_set_no_condition():
    random.seed(0)
    crops = 0
    for _ in range(30):
        results = make_results([[2, 2, 40, 40], [60, 44, 64, 48]])
        results["gt_ignore_flags"][1] = True
        after = ROCKRandomCrop(min_ious=(0.5,), force_crops=True)(results)
        crops += len(after["gt_bboxes"]) == 1
        assert len(after["gt_ignore_flags"]) == len(after["gt_bboxes"])
    assert crops > 10  # the small ignored box has an IoU of 0.5 with no crop


def test_boxes_that_are_not_finite_do_not_hang():
    results = make_results()
    results["gt_bboxes"].tensor[:] = float("nan")
    after = ROCKRandomCrop(force_crops=True, tries=2)(results)
    assert after["img"].shape == (HEIGHT, WIDTH, 3)


def test_the_crop_is_chosen_once_where_randomness_is_cached():
    crop, flip = ROCKRandomCrop(force_crops=True), RandomFlipWithMaps(prob=0.5)
    random.seed(1)
    with cache_random_params([crop, flip]):
        first, second = (flip(crop(make_results())) for _ in range(2))
    assert_same(first, second)


def test_equal_seeds_give_equal_crops():
    def run():
        random.seed(3)
        return [crop_place(ROCKRandomCrop()(make_results())) for _ in range(5)]

    assert run() == run()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"min_area": 0}, "min_area is 0"), ({"min_ious": (0.5, 1.2)}, "min_ious are")],
)
def test_wrong_arguments_of_the_crop(arguments, message):
    with pytest.raises(ValueError, match=message):
        ROCKRandomCrop(**arguments)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (100, 70), (16, 1)])
def test_cell_i_takes_pixel_16_i_plus_8(height, width):
    rows, columns = np.mgrid[:height, :width]
    results = AuxiliaryTargets(stride=16)({"gt_depth": rows * 1000 + columns})
    found = results["gt_depth"]
    assert found.shape == (-(-height // 16), -(-width // 16))
    for i, j in np.ndindex(found.shape):
        expected = min(16 * i + 8, height - 1) * 1000 + min(16 * j + 8, width - 1)
        assert found[i, j] == expected


@pytest.mark.parametrize(
    "transform", [RandomFlipWithMaps(prob=1.0), ResizeWithMaps(scale=(80, 60))]
)
def test_maps_with_a_stride_are_moved_only_if_they_cover_the_image(transform):
    name = type(transform).__name__
    uneven = AuxiliaryTargets(stride=16)(make_results(height=60, width=80))
    with pytest.raises(ValueError, match=rf"{name} .* the stride 16, .*\(60, 80\).* behind it"):
        transform(uneven)
    even = transform(AuxiliaryTargets(stride=20)(make_results(height=60, width=80)))
    assert even.get("map_stride") == (20 if name == "RandomFlipWithMaps" else None)


def test_the_stride_of_maps_is_kept():
    results = AuxiliaryTargets(stride=4)(AuxiliaryTargets(stride=2)(make_results()))
    assert results["map_stride"] == 8
    sample = PackMultiTaskInputs()(dict(results))["data_samples"]
    assert sample.gt_depth.metainfo == sample.gt_normals.metainfo == {"stride": 8}
    results = AuxiliaryTargets(size=(3, 4))(results)
    assert PackMultiTaskInputs()(results)["data_samples"].gt_depth.metainfo == {}


def test_targets_of_a_given_size():
    results = AuxiliaryTargets(size=(30, 40))(make_results(height=60, width=80))
    assert [results[key].shape[:2] for key in MAPS] == [(30, 40)] * 3
    assert "gt_depth" not in AuxiliaryTargets(size=(30, 40))({})


@pytest.mark.parametrize("arguments", [{}, {"stride": 8, "size": (3, 4)}, {"stride": 0}])
def test_wrong_arguments_of_the_targets(arguments):
    with pytest.raises(ValueError, match="stride"):
        AuxiliaryTargets(**arguments)


MODALITIES = ("gt_depth", "gt_normals", "gt_normals_mask", "gt_scene", "gt_masks")


@pytest.mark.parametrize(
    "missing",
    [
        missing
        for number in range(len(MODALITIES) + 1)
        for missing in itertools.combinations(MODALITIES, number)
    ],
    ids="-".join,
)
def test_any_mixture_of_missing_modalities_passes_through_the_pipeline(missing):
    random.seed(0)
    results = make_results()
    for key in missing:
        if len(missing) % 2:
            results[key] = None
        else:
            del results[key]
    for transform in (
        ROCKRandomCrop(force_crops=True),
        RandomFlipWithMaps(prob=1.0),
        ResizeWithMaps(scale=(WIDTH, HEIGHT)),
        AuxiliaryTargets(stride=16),
    ):
        results = transform(results)
    if results.get("gt_masks", 0) is None:
        del results["gt_masks"]  # mmdet's own packing takes no None
    sample = PackMultiTaskInputs()(results)["data_samples"]
    assert ("gt_depth" in sample) == ("gt_depth" not in missing)
    assert ("gt_normals" in sample) == ("gt_normals" not in missing)
    assert ("gt_scene" in sample) == ("gt_scene" not in missing)
    assert ("masks" in sample.gt_instances) == ("gt_masks" not in missing)
    if "gt_depth" in sample:
        assert sample.gt_depth.depth.shape == (1, 3, 4)
        assert sample.gt_depth.depth.dtype == torch.float32
    if "gt_normals" in sample:
        normals, mask = sample.gt_normals.normals, sample.gt_normals.mask
        assert normals.shape == (3, 3, 4)
        assert (mask.shape, mask.dtype) == ((1, 3, 4), torch.bool)
        assert bool(mask.all()) == ("gt_normals_mask" in missing)
        torch.testing.assert_close(
            normals.norm(dim=0), torch.ones(3, 4), **TOLERANCE[torch.float32]
        )
    if "gt_scene" in sample:
        assert sample.gt_scene.label.tolist() == [2]
        assert sample.gt_scene.label.dtype == torch.int64


def test_packed_normals_that_are_zero_or_not_finite_are_invalid_and_zero():
    results = make_results()
    results["gt_normals"][0, 0] = np.nan
    results["gt_normals"][0, 1] = 0
    results["gt_normals_mask"][0] = True
    packed = PackMultiTaskInputs()(results)["data_samples"].gt_normals
    assert packed.mask[0, 0, :3].tolist() == [False, False, True]
    assert packed.normals.isfinite().all()
    assert not packed.normals[:, 0, :2].any()


def test_maps_are_loaded_as_they_were_written(tmp_path):
    before = make_results()
    root = tmp_path / "with blanks"
    maps = [before[key] for key in MAPS]
    entry = write_sample(root, "0001", before["img"], *maps)
    paths = {
        "depth_path": root / "depth" / entry["depth_file"],
        "normals_path": root / "normals" / entry["normals_file"],
        "normals_mask_path": root / "normals_mask" / entry["normals_mask_file"],
    }
    loaded = LoadAuxiliaryMaps()({"img": before["img"], **paths})
    np.testing.assert_array_equal(loaded["gt_depth"], before["gt_depth"])
    np.testing.assert_array_equal(loaded["gt_normals_mask"], before["gt_normals_mask"])
    assert np.abs(loaded["gt_normals"] - before["gt_normals"]).max() < 0.02
    assert not set(MAPS) & set(LoadAuxiliaryMaps()({"img": before["img"]}))
    only = LoadAuxiliaryMaps(with_normals=False)({"img": before["img"], **paths})
    assert set(MAPS) & set(only) == {"gt_depth"}
    with pytest.raises(ValueError, match=r"64 x 48 pixels; expected the size of its image.*9 x 5"):
        LoadAuxiliaryMaps()({"img": np.zeros((5, 9, 3)), **paths})
    paths["depth_path"].unlink()
    with pytest.raises(FileNotFoundError):
        LoadAuxiliaryMaps()({"img": before["img"], **paths})


def test_normals_without_a_mask_are_valid_except_where_they_are_grey(tmp_path):
    normals = make_results()["gt_normals"]
    normals[:4] = 0
    entry = write_sample(tmp_path, "a", np.zeros((HEIGHT, WIDTH, 3), np.uint8), None, normals)
    assert "normals_mask_file" not in entry
    assert "depth_file" not in entry
    loaded = LoadAuxiliaryMaps()({"normals_path": tmp_path / "normals" / "a.png"})
    assert not loaded["gt_normals_mask"][:4].any()
    assert loaded["gt_normals_mask"][4:].all()


def test_colours_change_within_their_ranges_and_nothing_else():
    grey = np.full((8, 8, 3), 100, np.uint8)
    random.seed(0)
    bright = [
        int(ROCKColorJitter(0.15, 0, 0, 0)({"img": grey.copy()})["img"][0, 0, 0])
        for _ in range(200)
    ]
    assert 84 <= min(bright) < 90
    assert 110 < max(bright) <= 115
    before = make_results()
    after = ROCKColorJitter()(copy.deepcopy(before))
    assert (after["img"].dtype, after["img"].shape) == (np.uint8, before["img"].shape)
    assert (after["img"] != before["img"]).any()
    np.testing.assert_array_equal(after["gt_depth"], before["gt_depth"])
    none = ROCKColorJitter(0, 0, 0, 0)({"img": before["img"]})
    np.testing.assert_array_equal(none["img"], before["img"])
    with pytest.raises(ValueError, match=r"hue is 0\.6; expected a number from 0 to 0\.5"):
        ROCKColorJitter(hue=0.6)
