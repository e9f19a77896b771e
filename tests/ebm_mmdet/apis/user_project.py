"""A user's folder: a config of a small detector, three images with boxes, and a checkpoint.

Of a refined detector too, if asked.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import save_checkpoint

from ebm_mmdet.apis import add_energy_head

TWO_STAGE = """
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
model = dict(
    backbone=dict(depth=18, base_channels=8, frozen_stages=-1),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=3)),
    test_cfg=dict(rpn=dict(max_per_img=20), rcnn=dict(score_thr=0.0, max_per_img=5)))
"""
ONE_STAGE = """
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
model = dict(
    backbone=dict(depth=18, base_channels=8, frozen_stages=-1),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, num_classes=3),
    test_cfg=dict(score_thr=0.0, max_per_img=5))
"""
DATA = """
load = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 96), keep_ratio=True)]
pack = dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                                             'scale_factor'))
data = dict(
    _delete_=True, type='CocoDataset', data_root='data', ann_file='boxes.json',
    data_prefix=dict(img=''), metainfo=dict(classes=('ape', 'bat', 'cat')))
train_dataloader = dict(num_workers=0, persistent_workers=False, batch_size=1, dataset=dict(
    data, pipeline=load + [dict(type='LoadAnnotations', with_bbox=True), pack]))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    data, test_mode=True, pipeline=load + [pack]))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/boxes.json')
test_evaluator = val_evaluator
"""


def make_project(folder: Path, detector: str = TWO_STAGE) -> Path:
    """Write ``my_detector.py``, ``epoch_12.pth`` and ``data/`` into a folder; returns it."""
    (folder / "data").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in (1, 2, 3):
        picture = rng.integers(0, 255, (60 + 6 * number, 90, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "data" / f"im {number}.png"), picture)
        size = dict(width=90, height=60 + 6 * number)
        images.append(dict(id=70 + number, file_name=f"im {number}.png", **size))
        box = [*rng.integers(0, 20, 2).tolist(), *rng.integers(20, 40, 2).tolist()]
        annotation = dict(id=number, image_id=70 + number, category_id=10 * number, bbox=box)
        annotations.append(annotation | dict(area=box[2] * box[3], iscrowd=0))
    categories = [dict(id=10 * i, name=name) for i, name in enumerate(("ape", "bat", "cat"), 1)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (folder / "data" / "boxes.json").write_text(json.dumps(content))
    (folder / "my_detector.py").write_text(detector + DATA)
    init_default_scope("mmdet")
    torch.manual_seed(0)
    cfg = Config.fromfile(folder / "my_detector.py")
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    model.init_weights()
    meta = dict(dataset_meta=dict(classes=("ape", "bat", "cat")))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / "epoch_12.pth")
    return folder


def make_refined_project(folder: Path) -> Path:
    """:func:`make_project` with ``ebm.py`` and ``best.pth`` of a refined detector (not trained)."""
    make_project(folder, ONE_STAGE)
    cfg = add_energy_head(Config.fromfile(folder / "my_detector.py"), folder / "epoch_12.pth")
    cfg.model.refiner = dict(type="GradientAscentRefiner", step_size=0.05, num_steps=3)
    cfg.custom_imports = dict(imports=["ebm_mmdet"], allow_failed_imports=False)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = str(folder / "data")
    cfg.dump(folder / "ebm.py")
    init_default_scope("mmdet")
    torch.manual_seed(1)
    model = MODELS.build(cfg.model)
    model.init_weights()
    torch.nn.init.normal_(model.energy_head.fc_energy.weight, std=0.5)
    # Scores of a fresh layer are so close that rounding decides which boxes are the best.
    for name, weight in model.detector.bbox_head.named_parameters():
        if "cls" in name and weight.dim() == 4:
            torch.nn.init.normal_(weight, std=0.5)
    meta = dict(dataset_meta=dict(classes=("ape", "bat", "cat")))
    save_checkpoint(dict(state_dict=model.state_dict(), meta=meta), str(folder / "best.pth"))
    return folder
