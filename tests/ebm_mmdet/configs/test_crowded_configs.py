"""Recipes count and keep as many boxes of an image as there are objects in their images."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="needs mmdet, which `make test` installs")

from mmengine.config import Config
from pycocotools.coco import COCO

from ebm_mmdet.apis.box_limits import box_limits
from ebm_mmdet.engine.command_line import evaluator_cfgs

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("EBM_DATA_ROOT", "/nonexistent"))
MOST_OBJECTS = {"bbbc039": 230}
"""Of an image, for each folder of configs whose images have more than COCO's 100."""
CROWDED = [
    (str(path.relative_to(ROOT)), most)
    for folder, most in MOST_OBJECTS.items()
    for path in sorted((ROOT / "configs" / folder).glob("*.py"))
]


@pytest.mark.parametrize(("path", "most"), CROWDED)
def test_as_many_boxes_count_and_are_kept_as_an_image_has_objects(path, most):
    cfg = Config.fromfile(ROOT / path)
    for part in ("val_evaluator", "test_evaluator"):
        (metric,) = evaluator_cfgs(cfg[part])
        # mmdet's CocoMetric has no AP at more than 100, whatever its proposal_nums.
        assert metric.type == "HighIoUCocoMetric"
        assert metric.max_dets >= most
        assert "proposal_nums" not in metric
    limits = box_limits(cfg.model)
    assert all(kept >= most for kept in limits.values()), limits


def test_recipes_of_crowded_images_are_there():
    assert len(CROWDED) >= 5


@pytest.mark.skipif(not DATA.is_dir(), reason="EBM_DATA_ROOT does not name a folder")
def test_crowded_images_are_known():
    """Other recipes may count COCO's 100."""
    files = {
        path.parents[1].name: path
        for path in sorted((DATA / "data").glob("*/annotations/val.json"))
    }
    for name, path in files.items():
        truth = COCO(path)
        objects = Counter(
            annotation["image_id"]
            for annotation in truth.anns.values()
            if not annotation["iscrowd"]
        )
        assert max(objects.values()) <= MOST_OBJECTS.get(name, 100), name
