"""Transforms of images with a target."""

import random

import numpy as np
import pytest

pytest.importorskip("mmdet", reason="ebm_mmdet.regression needs mmdet")

from mmdet.registry import TRANSFORMS

from ebm_mmdet.regression.datasets import (
    GeneratedRegressionDataset,
    PackRegressionInputs,
    RandomFlipTarget,
    RandomLight,
    RandomQuarterTurns,
    RandomScaleCrop,
)


def sample(size=(5, 7), **extra):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return {"img": image, "gt_target": np.array([10.0, 20.0, 0.0], np.float32), **extra}


def test_flipping_twice_is_the_identity_and_the_stored_label_stays():
    flip = RandomFlipTarget(prob=1.0, signs=(-1, 1, -1))
    stored = sample()
    image, label = stored["img"], stored["gt_target"]
    kept = image.copy(), label.copy()
    once = flip.transform(dict(stored))
    assert once["flip"] is True
    assert once["gt_target"].tolist() == [-10, 20, 0]
    assert not np.signbit(once["gt_target"][2])
    assert np.array_equal(once["img"], image[:, ::-1])
    twice = flip.transform(dict(once))
    assert twice["flip"] is False
    assert np.array_equal(twice["img"], image)
    assert np.array_equal(twice["gt_target"], label)
    assert np.array_equal(image, kept[0])
    assert np.array_equal(label, kept[1])


def test_flip_of_a_data_set_uses_its_signs_and_mirrors_the_truth():
    dataset = GeneratedRegressionDataset(
        "road", "plain", num_images=2, pipeline=[RandomFlipTarget(1.0)]
    )
    plain = GeneratedRegressionDataset("road", "plain", num_images=2)
    a, b = dataset[0], plain[0]
    assert a["gt_target"] == -b["gt_target"]
    assert a["oracle_means"] == -b["oracle_means"]
    assert a["oracle_log_prob"] == b["oracle_log_prob"]


def test_flip_happens_with_its_probability():
    flip = RandomFlipTarget(prob=0.3, signs=(1, 1, 1))
    random.seed(0)
    share = np.mean([flip.transform(sample())["flip"] for _ in range(2000)])
    assert share == pytest.approx(0.3, abs=0.04)
    unlabelled = sample()
    del unlabelled["gt_target"]
    assert "gt_target" not in flip.transform(unlabelled)


def test_flip_without_a_known_target_is_refused():
    dataset = GeneratedRegressionDataset("head", num_images=1, pipeline=[RandomFlipTarget(0.0)])
    with pytest.raises(ValueError, match=r"head://.*flip_signs"):
        dataset[0]
    with pytest.raises(ValueError, match="1 signs"):
        RandomFlipTarget(1.0, signs=(1,)).transform(sample())
    with pytest.raises(ValueError, match=r"signs=\(2,\)"):
        RandomFlipTarget(1.0, signs=(2,))
    with pytest.raises(ValueError, match=r"prob=1.5"):
        RandomFlipTarget(1.5)


HORIZONTAL, VERTICAL, DIAGONAL = (
    dict(type="mmdet.RandomFlip", prob=1.0, direction=way)
    for way in ("horizontal", "vertical", "diagonal")
)
NO_FLIP = dict(type="mmdet.RandomFlip", prob=0.0)
TARGET, NO_TARGET = (dict(type="RandomFlipTarget", prob=prob) for prob in (1.0, 0.0))


def packed(*steps, signs=(-1, 1, 1), **more):
    results = sample((6, 8), flip_signs=signs, **more)
    for step in steps:
        results = TRANSFORMS.build(step)(results)
    return PackRegressionInputs().transform(results)["data_samples"]


@pytest.mark.parametrize(
    "steps",
    [
        [HORIZONTAL],
        [VERTICAL],
        [DIAGONAL],
        [dict(HORIZONTAL, type="mmcv.RandomFlip")],
        [HORIZONTAL, NO_FLIP],
        [HORIZONTAL, TARGET],
        [HORIZONTAL, NO_TARGET],
        [TARGET, HORIZONTAL],
        [TARGET, HORIZONTAL, NO_FLIP],
    ],
)
def test_an_image_that_was_mirrored_without_its_target_is_refused(steps):
    with pytest.raises(ValueError, match=r"flip_signs=\(-1, 1, 1\).*RandomFlipTarget instead"):
        packed(*steps)
    # A flip does nothing to these, or nobody has said what, or there is no target.
    for signs in ((1, 1, 1), None):
        allowed = [step for step in steps if signs or step["type"] != "RandomFlipTarget"]
        assert "gt_target" in packed(*allowed, signs=signs)
    assert "gt_target" not in packed(*steps, gt_target=None)


@pytest.mark.parametrize(
    ("steps", "first"),
    [
        ([NO_FLIP], 10),
        ([TARGET], -10),
        ([TARGET, NO_FLIP], -10),
        ([NO_FLIP, TARGET], -10),
        ([TARGET, TARGET], 10),
        ([TARGET, dict(type="RandomScaleCrop", size=4)], -10),
        ([TARGET, dict(type="mmdet.Resize", scale=(12, 9))], -10),
    ],
)
def test_a_target_that_was_mirrored_with_its_image_is_packed(steps, first):
    assert packed(*steps).gt_target.tolist() == [first, 20, 0]


def test_signs_of_the_transform_count_where_it_has_run():
    flip = dict(type="RandomFlipTarget", prob=0.0, signs=(-1, 1, 1))
    with pytest.raises(ValueError, match="RandomFlipTarget instead"):
        packed(flip, HORIZONTAL, signs=None)
    assert "gt_target" in packed(dict(flip, signs=(1, 1, 1)), HORIZONTAL)


def test_scale_and_crop():
    smaller = RandomScaleCrop(size=8, scales=(0.5,)).transform(sample((8, 8)))
    assert smaller["img"].shape == (8, 8, 3)
    assert smaller["img"][:4, :4].any()
    assert not smaller["img"][4:].any()  # padded below
    assert not smaller["img"][:, 4:].any()  # and at the right
    same = sample((8, 8))
    result = RandomScaleCrop(size=8, scales=(1.0,)).transform(dict(same))
    assert np.array_equal(result["img"], same["img"])
    assert np.array_equal(result["gt_target"], same["gt_target"])
    random.seed(0)
    larger = [RandomScaleCrop(size=8, scales=(1.5,)).transform(sample((8, 8))) for _ in range(8)]
    assert all(x["img"].shape == (8, 8, 3) and x["img_shape"] == (8, 8) for x in larger)
    assert any(not np.array_equal(larger[0]["img"], x["img"]) for x in larger)
    with pytest.raises(ValueError, match="size=0"):
        RandomScaleCrop(size=0)


def test_light():
    original = sample((8, 8))
    kept = original["img"].copy()
    result = RandomLight(0.2, 0.3).transform(dict(original))
    assert result["img"].dtype == np.uint8
    assert np.array_equal(original["img"], kept)
    unchanged = RandomLight(0.0, 0.0).transform(dict(original))
    assert np.array_equal(unchanged["img"], kept)
    with pytest.raises(ValueError, match="contrast=1"):
        RandomLight(0.1, 1)


def test_quarter_turns():
    original = sample((4, 6))
    random.seed(0)
    seen = set()
    for _ in range(40):
        result = RandomQuarterTurns().transform(dict(original))
        assert result["img"].flags.c_contiguous
        assert result["img_shape"] == result["img"].shape[:2]
        assert np.array_equal(result["gt_target"], original["gt_target"])
        turns = [i for i in range(4) if np.array_equal(np.rot90(original["img"], i), result["img"])]
        seen.update(turns)
    assert seen == {0, 1, 2, 3}


def test_all_are_registered():
    names = ["RandomFlipTarget", "RandomScaleCrop", "RandomLight", "RandomQuarterTurns"]
    for name in [*names, "LoadRegressionImage"]:
        assert name in repr(TRANSFORMS.build({"type": name}))
