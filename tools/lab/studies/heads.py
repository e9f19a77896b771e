"""The heads of a study, trained once per seed on cached features and stored."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from torch import nn

from ebm_mmdet.apis.feature_cache import TrainingView, cache_training_views
from ebm_mmdet.apis.fitting.kl_regressor import KLRegressor
from ebm_mmdet.apis.fitting.rivals import BoxRegressor
from ebm_mmdet.engine import read_checkpoint
from ebm_mmdet.files import open_atomic
from ebm_mmdet.models.detectors import EBMDetector
from ebm_mmdet.models.detectors.trunk_init import copy_trunk_from_box_head

from .methods import ENERGY, KL, L1, L2
from .training import Trained, train_head

__all__ = ["TrainedHeads", "training_views"]

REGRESSORS = {
    L1: BoxRegressor,
    L2: functools.partial(BoxRegressor, distance="l2"),
    KL: KLRegressor,
}


def training_views(
    cfg: Config, detector: EBMDetector, rounds: int, say: Callable[[str], None]
) -> Callable[[], list[TrainingView]]:
    """A function that caches the training images at its first call, and keeps them."""

    @functools.cache
    def views() -> list[TrainingView]:
        say(f"caching features of {rounds} versions of each image")
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        return cache_training_views(detector, dataset, rounds, seed=1000)

    return views


class TrainedHeads:
    """Heads of one recipe, loaded from the folder if they exist.

    Args:
        cfg: config of an ``EBMDetector`` with the recipe of its head.
        detector: the frozen detector.
        folder: folder of the stored heads.
        views: function that returns the cached training images.
        boxes_per_iteration: number of annotations per step.
        say: receives one line per training.
    """

    def __init__(
        self,
        cfg: Config,
        detector: EBMDetector,
        folder: Path,
        views: Callable[[], list[TrainingView]],
        boxes_per_iteration: int,
        say: Callable[[str], None],
    ) -> None:
        self.cfg, self.detector, self.folder = cfg, detector, folder
        self.views, self.boxes_per_iteration, self.say = views, boxes_per_iteration, say

    def get(self, kind: str, seed: int) -> Trained:
        """The head in eval mode, with its training time in seconds and its losses."""
        path = self.folder / f"{kind}_{seed}.pth"
        if path.exists():
            head, stored = self._build(kind), read_checkpoint(path)
            head.load_state_dict(stored["state_dict"])
            return Trained(head.eval(), stored["seconds"], stored["losses"])
        views = self.views()
        trained = train_head(
            lambda: self._build(kind), views, self.cfg, seed, self.boxes_per_iteration
        )
        losses = " ".join(f"{loss:.3f}" for loss in trained.losses)
        self.say(f"trained {kind} head, seed {seed}, in {trained.seconds:.0f} s; loss {losses}")
        state = dict(
            state_dict=trained.head.state_dict(), seconds=trained.seconds, losses=trained.losses
        )
        _save(path, state)
        return trained

    def _build(self, kind: str) -> nn.Module:
        settings = self.cfg.model.energy_head
        head = MODELS.build(settings) if kind == ENERGY else REGRESSORS[kind](settings)
        if self.cfg.model.get("init_trunk_from", "auto") == "auto":
            copy_trunk_from_box_head(self.detector.detector, head)
        return head


def _save(path: Path, state: dict) -> None:
    with open_atomic(path) as file:
        torch.save(state, file)
