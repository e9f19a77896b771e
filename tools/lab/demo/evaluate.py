"""Measurements for both worlds: load a model, predict with any refiner, and time it."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import Registry, init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ebm_mmdet.apis.timing import median_milliseconds
from ebm_mmdet.datasets import use_checked_annotations
from ebm_mmdet.energy import RefinementResult, Refiner
from ebm_mmdet.engine import read_checkpoint

__all__ = [
    "RecordingRefiner",
    "build_metric",
    "changed",
    "load_model",
    "metric_values",
    "milliseconds_with",
    "predict",
    "val_loader",
]


def load_model(cfg: Config, checkpoint: str) -> nn.Module:
    """Build the model of a config in eval mode with all parameters of a checkpoint."""
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.load_state_dict(read_checkpoint(checkpoint)["state_dict"])
    return model.eval()


def val_loader(cfg: Config) -> DataLoader:
    """Build the loader of the validation images or frames, one per batch."""
    use_checked_annotations()
    return Runner.build_dataloader(cfg.val_dataloader, seed=0)


def build_metric(registry: Registry, settings: dict, loader: DataLoader) -> BaseMetric:
    """Build a metric for the data set of a loader."""
    metric = registry.build(settings)
    metric.dataset_meta = loader.dataset.metainfo
    return metric


def metric_values(metric: BaseMetric, loader: DataLoader) -> dict[str, float]:
    """Evaluate a metric after all images were processed; names without their prefix."""
    return {k.rpartition("/")[2]: v for k, v in metric.evaluate(len(loader.dataset)).items()}


class RecordingRefiner:
    """A refiner that records its steps; for one thread only."""

    def __init__(self, refiner: Refiner) -> None:
        self.refiner = refiner
        self.fn = self.result = None

    def __call__(self, log_density_fn, y0: Tensor, *more, **known) -> RefinementResult:
        self.fn, self.result = log_density_fn, self.refiner(log_density_fn, y0, *more, **known)
        return self.result


def changed(refiner: Refiner, **settings) -> Refiner:
    """Return a copy of a refiner with other settings, such as ``num_steps``."""
    refiner = copy.copy(refiner)
    for name, value in settings.items():
        setattr(refiner, name, value)
    return refiner


def predict(model: nn.Module, batch: dict, refiner: Refiner) -> list:
    """The result of ``model.test_step(batch)`` with another refiner."""
    with torch.inference_mode():
        data = model.data_preprocessor(batch, False)
        return model.predict(data["inputs"], data["data_samples"], refiner=refiner)


def milliseconds_with(
    model: nn.Module, loader: DataLoader, refiners: Sequence[Refiner], count: int
) -> list[float]:
    """Median wall times in ms for one image or frame, without loading, with every refiner.

    Args:
        model: In eval mode.
        loader: Result of `val_loader`.
        refiners: The refiners to time.
        count: Number of images to time.
    """
    turns = [functools.partial(_predict_with, model, refiner) for refiner in refiners]
    return median_milliseconds(turns, itertools.islice(loader, count))


def _predict_with(model: nn.Module, refiner: Refiner, batch: dict) -> None:
    predict(model, batch, refiner)
