"""Maps that are not those of their image any more are refused, and no others."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import pytest
from mmcv.transforms import TRANSFORMS as MMCV_TRANSFORMS
from mmcv.transforms import Compose
from mmdet.registry import TRANSFORMS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ebm_mmdet.datasets.nyuv2 import PackMultiTaskInputs
from tests.ebm_mmdet.datasets.nyuv2.test_transforms import HEIGHT, WIDTH, make_results

CONFIGS = Path(__file__).parents[4] / "configs" / "rock"
META = ("img_shape",)
HALF = (HEIGHT // 2, WIDTH // 2)
STRIDE = dict(type="AuxiliaryTargets", stride=8)
SIZE = dict(type="AuxiliaryTargets", size=(6, 8))
ALONE = {
    **{
        way: dict(type="RandomFlip", prob=1.0, direction=way)
        for way in ("horizontal", "vertical", "diagonal")
    },
    "crop": dict(type="RandomCrop", crop_size=HALF),
    "expand": dict(type="Expand", ratio_range=(2, 3), prob=1.0),
    "turn": dict(type="Rotate", prob=1.0, level=10),
}
AFTER = {
    "nothing": [],
    "flip": [dict(type="RandomFlipWithMaps", prob=1.0)],
    "no flip": [dict(type="RandomFlipWithMaps", prob=0.0)],
    "resize": [dict(type="ResizeWithMaps", scale=(WIDTH, HEIGHT), keep_ratio=False)],
}


def run(*steps, results=None, **pack):
    init_default_scope("mmdet")
    results = make_results() if results is None else results
    pack = dict(type="PackMultiTaskInputs", meta_keys=META) | pack
    for step in (*steps, pack):
        results = TRANSFORMS.build(step)(results)
    return results


@pytest.fixture(autouse=True)
def seeded():
    random.seed(0)


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("targets", ["none", "before", "behind", "size before"])
@pytest.mark.parametrize("alone", ALONE)
def test_what_moves_the_image_alone_is_refused(alone, targets, after):
    steps = [ALONE[alone], *AFTER[after]]
    if targets != "none":
        extra = SIZE if targets.startswith("size") else STRIDE
        steps.insert(len(steps) if targets == "behind" else 0, extra)
    with pytest.raises(ValueError, match=r"gt_depth is not that of the image|would displace maps"):
        run(*steps)


@pytest.mark.parametrize("key", ["gt_depth", "gt_normals", "gt_normals_mask"])
def test_any_map_counts_and_without_maps_everything_is_allowed(key):
    results = make_results()
    for each in {"gt_depth", "gt_normals", "gt_normals_mask"} - {key}:
        del results[each]
    with pytest.raises(ValueError, match=rf"{key} is not that of the image .*mirrored"):
        run(ALONE["horizontal"], results=copy.deepcopy(results))
    del results[key]
    run(ALONE["horizontal"], ALONE["crop"], results=results)


def test_a_flip_without_a_homography_is_seen_by_its_mark():
    results = MMCV_TRANSFORMS.build(dict(type="mmcv.RandomFlip", prob=1.0))(
        dict(img=make_results()["img"], gt_depth=make_results()["gt_depth"])
    )
    assert results.get("homography_matrix") is None
    with pytest.raises(ValueError, match=r"gt_depth .* mirrored \(flip_direction='horizontal'\)"):
        PackMultiTaskInputs(meta_keys=())(results)


@pytest.mark.parametrize(
    "steps",
    [
        [dict(type="RandomFlip", prob=0.0)],
        [dict(type="Resize", scale=(2 * WIDTH, HEIGHT), keep_ratio=False)],
        [dict(type="Resize", scale=(50, 40), keep_ratio=True), *AFTER["flip"]],
        [dict(type="Resize", scale=(50, 40), keep_ratio=True), SIZE],
        [SIZE, dict(type="Resize", scale=(50, 40), keep_ratio=True), *AFTER["resize"]],
        [*AFTER["flip"], *AFTER["flip"], *AFTER["resize"], *AFTER["flip"]],
        [dict(type="ROCKRandomCrop", force_crops=True), *AFTER["flip"], SIZE],
        [STRIDE, dict(type="Pad", size_divisor=64)],
        [dict(type="Pad", size_divisor=64), STRIDE],
        [STRIDE, *AFTER["flip"], dict(type="Pad", size_divisor=64)],
        [dict(type="PhotoMetricDistortion")],
    ],
)
def test_what_keeps_maps_and_image_together_is_allowed(steps):
    assert "gt_depth" in run(*steps)["data_samples"]


@pytest.mark.parametrize(
    "steps",
    [
        [dict(type="Pad", size_divisor=64)],
        [SIZE, dict(type="Pad", size_divisor=64)],
        [dict(type="Pad", size_divisor=64), STRIDE, *AFTER["flip"]],
        [STRIDE, dict(type="Resize", scale=(2 * WIDTH, 2 * HEIGHT))],
        [dict(type="Resize", scale=(2 * WIDTH, 2 * HEIGHT)), STRIDE],
    ],
)
def test_pixels_of_the_image_that_a_stride_or_a_share_does_not_count_are_refused(steps):
    with pytest.raises(ValueError, match=r"gt_depth .* changed from \(48, 64\) to"):
        run(*steps)


def test_maps_may_be_loaded_after_a_resize():
    results = make_results()
    maps = {key: results.pop(key) for key in ("gt_depth", "gt_normals", "gt_normals_mask")}
    scale = dict(type="Resize", scale=(2 * WIDTH, 2 * HEIGHT), keep_ratio=False)
    results = TRANSFORMS.build(scale)(results)
    results.update({key: values.repeat(2, 0).repeat(2, 1) for key, values in maps.items()})
    assert run(*AFTER["flip"], STRIDE, results=results)["data_samples"].gt_depth.shape == (12, 16)


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.py")))
def test_pipelines_of_the_recipes_run(name):
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    for pipeline in (cfg.train_pipeline, cfg.test_pipeline):
        steps = [step for step in pipeline if not step.type.startswith("Load")]
        for step in steps:
            if "scale" in step:
                step.scale = (2 * WIDTH, 2 * HEIGHT)
        for _ in range(3):
            results = make_results() | dict(scale_factor=(1.0, 1.0), instances=[])
            run(*steps[:-1], results=results)


def test_mirror_images_at_test_time_take_the_transform_with_maps():
    def views(flip):
        init_default_scope("mmdet")
        flips = [dict(type=flip, prob=prob) for prob in (1.0, 0.0)]
        pack = [dict(type="PackMultiTaskInputs", meta_keys=("img_shape", "flip", "flip_direction"))]
        return Compose([dict(type="TestTimeAug", transforms=[flips, [STRIDE], pack])])

    found = views("RandomFlipWithMaps")(make_results())["data_samples"]
    assert [sample.flip for sample in found] == [True, False]
    depth = [sample.gt_depth.depth for sample in found]
    assert depth[0].shape == depth[1].shape
    with pytest.raises(ValueError, match="RandomFlipWithMaps"):
        views("RandomFlip")(make_results())
