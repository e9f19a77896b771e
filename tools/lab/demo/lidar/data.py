"""The data of the demo: a fixed set of evaluation scenes in KITTI's layout."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

from dataset_converters.kitti_preparation import info_file, prepare_kitti
from dataset_converters.kitti_writer import write_kitti
from ebm_mmdet3d.datasets import SceneOptions

__all__ = ["NUM_SCENES", "generate", "use_data"]

NUM_SCENES = 150
_SEED = 2  # the data sets of the configs use seeds from 1000 and 2000 on


def generate(root: Path, cfg: Config, num_scenes: int) -> None:
    """Write and prepare the evaluation scenes, unless they exist.

    Args:
        root: Output folder.
        cfg: A config with `scene`.
        num_scenes: Number of scenes.
    """
    if not root.exists():
        write_kitti(root, {"val": num_scenes}, _SEED, SceneOptions.from_config(cfg.scene))
    if not (root / info_file("val")).exists():
        prepare_kitti(root)


def use_data(cfg: Config, root: Path) -> None:
    """Let a demo config (detector or energy head) use a folder; changes it in place."""
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = f"{root}/"
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = f"{root}/{info_file('val')}"
