"""`tools/dist_train.sh` with a 3D config: two gloo processes do what one does with both frames."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

import ebm_mmdet  # noqa: F401  (allows loading training checkpoints)
from dataset_converters.kitti_preparation import prepare_kitti
from dataset_converters.kitti_writer import write_kitti
from ebm_mmdet3d.datasets import (
    Lidar,
    LidarScenesDataset,
    SceneOptions,
)
from tests.tools.tools_support import REPO, run

SCENE = dict(extent=(7, -10, 30, 10), num_vehicles=(1, 6), num_clutter=(1, 3))
LIDAR = dict(num_beams=16, azimuth=(-42, 42), azimuth_step=0.8)
SEED = 3
CONFIG = """
_base_ = [{base!r}]
custom_imports = dict(
    imports=['ebm_mmdet', 'ebm_mmdet3d', 'tests.ebm_mmdet3d.tools.fixed_noise'],
    allow_failed_imports=False)
load_from = None
model = dict(
    detector=dict(test_cfg=dict(score_thr=0.0, max_num=5)),
    energy_head=dict(
        fc_channels=[16], objective=dict(num_noise=7, noise=dict(type='FixedNoise'))))
# Nothing at random: every process must see what one process sees.
train_dataloader = dict(
    batch_size=1, num_workers=0, persistent_workers=False,
    dataset=dict(seed={seed}, scene={scene!r}, pipeline=[
        dict(type='MergeClasses3D', classes=['Car', 'Van'], into=dict(Van='Car')),
        dict(type='Pack3DDetInputs', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'])]))
val_dataloader = dict(dataset=dict(data_root={data!r}))
val_evaluator = dict(ann_file={data!r} + '/kitti_infos_val.pkl', iou_thresholds=[0.0, 0.1])
test_dataloader = val_dataloader
test_evaluator = val_evaluator
train_cfg = dict(max_iters=1, val_interval=1)
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))
"""


def run_tool(work_dir: Path, *command: object) -> str:
    done = run(*command, "--work-dir", work_dir, timeout=800)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def gradients(work_dir: Path) -> list[torch.Tensor]:
    """After one iteration, SGD's momentum is the gradient."""
    state = torch.load(work_dir / "iter_1.pth", weights_only=True, map_location="cpu")
    return [slot["momentum_buffer"] for slot in state["optimizer"]["state"].values()]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_equal_the_double_batch_and_evaluate_every_frame_once(tmp_path):
    counts = [
        len(
            LidarScenesDataset(seed=SEED, scene={**SCENE, "lidar": LIDAR})[i]["gt_bboxes_3d"].tensor
        )
        for i in (0, 1)
    ]
    # Then a mean of the processes' means would differ.
    assert counts[0] != counts[1]
    assert min(counts) > 0

    data = tmp_path / "kitti"
    # An odd number of frames: one process gets one twice.
    write_kitti(data, {"val": 3}, SEED + 1, SceneOptions(lidar=Lidar(**LIDAR), **SCENE))
    prepare_kitti(data)
    config = tmp_path / "tiny3d.py"
    config.write_text(
        CONFIG.format(
            base=str(REPO / "configs" / "demo" / "lidar_ebm.py"),
            seed=SEED,
            scene={**SCENE, "lidar": LIDAR},
            data=str(data),
        )
    )
    logs = [
        # Both start from the same random detector, which is as good as a trained one here.
        run_tool(tmp_path / "two", "tools/dist_train.sh", config, 2, "--incomplete"),
        run_tool(
            *(tmp_path / "one", sys.executable, "tools/train.py", config, "--incomplete"),
            *("--cfg-options", "train_dataloader.batch_size=2"),
        ),
    ]
    ours, expected = gradients(tmp_path / "two"), gradients(tmp_path / "one")
    assert len(ours) == len(expected) == 14  # two layers for z, two for h, trunk, two outputs
    # Before the regression's two comes the bias of f, to which NCE is blind.
    blind = [each.pop(11) for each in (ours, expected)]
    assert max(float(each.abs()) for each in blind) < 1e-6
    for a, b in zip(ours, expected):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))
    values = [re.findall(r"(Car_\w+_IoU0(?:\.1)?): ([\d.]+|nan)", log) for log in logs]
    assert len(values[0]) == 2 * 2 * 3 * 3  # BEV and 3D, thresholds, difficulties, positions
    assert dict(values[0]) == dict(values[1])
    assert not any("others are left out" in log for log in logs)
