"""True boxes of real LiDAR frames, moved at random and refined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from dataset_converters.kitti_preparation import prepare_kitti
from lab.demo.evaluate import changed, val_loader
from lab.studies.jittered_boxes import refine_jittered_boxes
from tests.lab.real_data import ROOT as DATA
from tests.lab.real_data import needs

ROOT = Path(__file__).parents[3]
SAMPLE = DATA / "data" / "kitti_sample"
pytestmark = needs("kitti_sample")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    out = tmp_path_factory.mktemp("kitti")
    prepare_kitti(SAMPLE, out, splits=["val"])
    cfg = Config.fromfile(ROOT / "configs" / "demo" / "lidar_kitti_frames_ebm.py")
    cfg.val_dataloader.dataset.data_root = str(out)
    init_default_scope("mmdet3d")
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    torch.nn.init.normal_(model.energy_head.fc_energy.weight, std=0.1)
    return model, val_loader(cfg)


def test_boxes_are_moved_by_the_noise_and_climb(scene):
    model, loader = scene
    (found,) = refine_jittered_boxes(model, loader, num_copies=20, seed=3)
    assert found.frame == "000008"  # the other frame has no car
    assert found.truth.shape == (6, 7)
    assert found.before.shape == found.after.shape == (6, 20, 7)
    moves = (found.before - found.truth[:, None]).reshape(-1, 7)
    expected = (np.asarray(model.energy_head.objective.noise.sigmas) ** 2).mean(0) ** 0.5
    np.testing.assert_allclose((moves**2).mean(0) ** 0.5, expected, rtol=0.35)
    assert (found.before != found.after).any(2).mean() > 0.5
    assert 0.5 < found.iou(found.before).mean() < 0.95
    assert (found.iou(found.before) <= found.iou(found.before, bev=True) + 1e-6).all()


def test_the_same_seed_moves_alike_and_no_step_changes_nothing(scene):
    model, loader = scene
    kept = model.refiner
    model.refiner = changed(kept, num_steps=0, regression_steps=0)
    try:
        (a,), (b,) = (refine_jittered_boxes(model, loader, 5, seed=1) for _ in range(2))
    finally:
        model.refiner = kept
    np.testing.assert_array_equal(a.before, b.before)
    np.testing.assert_array_equal(a.before, a.after)


def test_frames_in_one_batch_do_not_mix(scene):
    model, loader = scene
    together = DataLoader(loader.dataset, batch_size=2, collate_fn=pseudo_collate)
    (alone,), (beside,) = (refine_jittered_boxes(model, x, 5, seed=1) for x in (loader, together))
    assert alone.frame == beside.frame
    np.testing.assert_array_equal(alone.before, beside.before)
    np.testing.assert_allclose(alone.after, beside.after, atol=1e-3)


def test_errors_name_what_is_missing(scene):
    model, loader = scene
    with pytest.raises(ValueError, match="num_copies must be at least 1, got 0"):
        next(refine_jittered_boxes(model, loader, 0))
    refiner, model.refiner = model.refiner, None
    try:
        with pytest.raises(ValueError, match="refiner=None"):
            next(refine_jittered_boxes(model, loader))
    finally:
        model.refiner = refiner
