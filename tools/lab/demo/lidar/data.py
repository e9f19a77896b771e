"""Where the demo's scenes come from: a fixed set in KITTI's layout to measure on."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

from dataset_converters.kitti_preparation import info_file, prepare_kitti
from dataset_converters.kitti_writer import write_kitti
from ebm_mmdet3d.datasets import SceneOptions

__all__ = ["NUM_SCENES", "generate", "use_data"]

NUM_SCENES = 150
_SEED = 2  # the data sets of the configs count from 1000 and 2000


def generate(root: Path, cfg: Config, num_scenes: int) -> None:
    """Write and prepare the scenes that are measured on, unless they are there already.

    Args:
        root: Folder to make.
        cfg: A config with `scene`.
        num_scenes: Number of scenes.
    """
    if not root.exists():
        write_kitti(root, {"val": num_scenes}, _SEED, SceneOptions.from_config(cfg.scene))
    if not (root / info_file("val")).exists():
        prepare_kitti(root)


def use_data(cfg: Config, root: Path) -> None:
    """Point a demo config (detector or energy head) at a folder, in place."""
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = f"{root}/"
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = f"{root}/{info_file('val')}"
