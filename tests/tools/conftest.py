"""A data set and a config so small that the command-line tools run in seconds."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from tests.tools.tools_support import run

CONFIG = """
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', 'mmdet::_base_/default_runtime.py']
custom_imports = dict(imports=['ebm_mmdet', 'fixed_noise'], allow_failed_imports=False)
detector = _base_.model
detector.update(
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(depth=18, base_channels=8, init_cfg=None, frozen_stages=-1),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=8),
    bbox_head=dict(num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1),
    test_cfg=dict(nms_pre=50, score_thr=0.0, max_per_img=5))
model = dict(
    _delete_=True, type='EBMDetector', detector=detector,
    energy_head=dict(
        type='EBMBBoxHead', num_classes=2, in_channels=8, strides=[8, 16],
        feature_levels=[0, 1], level_rule='concat', fc_channels=[16], pool_size=3,
        objective=dict(
            type='NCEObjective', num_noise=7,
            noise=dict(type='FixedNoise', sigmas=[0.1, 0.2], dim=4))),
    refiner=dict(type='GradientAscentRefiner', step_size=1e-2, num_steps=2))
data = dict(
    type='CocoDataset', data_root={root!r}, ann_file='annotations.json',
    # Nested, so that a piece of the config goes into every checkpoint.
    data_prefix=dict(img=''), metainfo=dict(classes=('square', 'bar'), source=dict(year=2026)))
pack = dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                                             'scale_factor'))
load = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64), keep_ratio=True)]
train_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=False),
    dataset=dict(data, pipeline=load + [
        dict(type='LoadAnnotations', with_bbox=True), pack]))
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(data, test_mode=True, pipeline=load + [pack]))
test_evaluator = dict(type='HighIoUCocoMetric', ann_file={root!r} + '/annotations.json')
test_cfg = dict(type='TestLoop')
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=10**6)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2,
                    backend_args=dict(backend='atomic')))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
load_from = {root!r} + '/detector.pth'
"""


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory) -> Path:
    """Config of a tiny detector with an energy head, and four images with 1 to 4 objects.

    In a folder with blanks in its name, as users have them.
    """
    root = tmp_path_factory.mktemp("a folder with blanks")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for image_id in range(1, 5):
        picture = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        for _ in range(image_id):
            x, y = rng.integers(0, 40, 2).tolist()
            w, h = rng.integers(10, 24, 2).tolist()
            picture[y : y + h, x : x + w] = rng.integers(100, 255, 3)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=1 + (w > h),
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=0,
                )
            )
        cv2.imwrite(str(root / f"{image_id}.png"), picture)
        images.append(dict(id=image_id, width=64, height=64, file_name=f"{image_id}.png"))
    categories = [dict(id=1, name="square"), dict(id=2, name="bar")]
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / "annotations.json").write_text(json.dumps(content))
    path = root / "tiny.py"
    path.write_text(CONFIG.format_map(_OnlyRoot(root=str(root))))
    # The head's noise is registered in the processes that train.
    cfg = Config.fromfile(path, import_custom_modules=False)
    torch.save(dict(state_dict=MODELS.build(cfg.detector).state_dict()), root / "detector.pth")
    return path


class _OnlyRoot(dict):
    def __missing__(self, key):
        return "{" + key + "}"


@dataclass
class Trained:
    checkpoint: Path
    log: str


@pytest.fixture(scope="session")
def trained(tiny_config, tmp_path_factory) -> Trained:
    """Two iterations of training in one process, started with `--resume` in an empty folder."""
    work_dir = tmp_path_factory.mktemp("trained in one")
    done = run(sys.executable, "tools/train.py", tiny_config, "--work-dir", work_dir, "--resume")
    assert done.returncode == 0, done.stdout[-4000:]
    return Trained(work_dir / "iter_2.pth", done.stdout)
