"""A user's folder with a refined detector (not trained), and boxes of its images in files."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from mmengine.config import Config

from ebm_mmdet.apis import write_energy_config
from ebm_mmdet.apis.auditing.source import load_source
from tests.ebm_mmdet.apis.user_project import ONE_STAGE, make_project

QUIET = dict(device="cpu", say=lambda line: None)
REFINE = ("mine_ebm.py", "mine.pth", "data")


def make_boxes_project(folder: Path) -> Path:
    """A project with ``mine_ebm.py`` and ``mine.pth``, whose head moves boxes; returns it."""
    make_project(folder, ONE_STAGE)
    path = folder / "my_detector.py"
    path.write_text(path.read_text().replace("data_root='data'", f"data_root='{folder / 'data'}'"))
    write_energy_config(path, "epoch_12.pth", folder / "mine_ebm.py")
    source = load_source(Config.fromfile(path), folder / "epoch_12.pth", "cpu")
    # A head with slopes that move boxes; a fresh one is almost flat.
    torch.nn.init.normal_(source.model.energy_head.fc_energy.weight, std=30.0)
    meta = dict(dataset_meta=dict(classes=("ape", "bat", "cat")))
    torch.save(dict(state_dict=source.model.state_dict(), meta=meta), folder / "mine.pth")
    return folder


def results(**more) -> list[dict]:
    """Results on two of the images; the first with other values."""
    rows = [
        dict(image_id=71, category_id=10, bbox=[10, 10, 30.5, 20], score=0.9, track=7),
        dict(image_id=73, category_id=30, bbox=[5, 5, 40, 25], score=0.2, track="b"),
        dict(image_id=71, category_id=20, bbox=[40, 20, 20, 30], score=0.5, track=None),
    ]
    rows[0].update(more)
    return rows


def write(path: Path, content) -> Path:
    """Write JSON; returns the path."""
    path.write_text(json.dumps(content))
    return path
