"""Real images for tests: the folder that EBM_DATA_ROOT names, where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mmengine.config import Config

from lab.studies.study_file import move_data

ROOT = Path(os.environ.get("EBM_DATA_ROOT", "/nonexistent"))


def needs(name: str) -> pytest.MarkDecorator:
    """Skip where EBM_DATA_ROOT does not name a folder with ``data/<name>``."""
    folder = ROOT / "data" / name
    return pytest.mark.skipif(
        not folder.is_dir(), reason=f"EBM_DATA_ROOT does not name a folder with data/{name}"
    )


def on_real_data(path: Path) -> Config:
    """Read a config whose data and weights are below EBM_DATA_ROOT."""
    cfg = Config.fromfile(path)
    move_data(cfg, ROOT / "data" / Path(cfg.data_root).name)
    weights = ROOT / "weights" / Path(cfg.load_from).name
    if weights.is_file():
        cfg.load_from = str(weights)
    return cfg
