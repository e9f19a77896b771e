"""What measuring has in common in both worlds: load a model, swap its refiner, time it."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import Registry, init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ebm_mmdet.datasets import use_checked_annotations
from ebm_mmdet.energy import RefinementResult
from ebm_mmdet.engine import read_checkpoint

from ..timing import median_milliseconds

__all__ = [
    "RecordingRefiner",
    "build_metric",
    "changed",
    "load_model",
    "metric_values",
    "milliseconds_with",
    "swapped_refiner",
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
    """Build a metric for what a loader gives."""
    metric = registry.build(settings)
    metric.dataset_meta = loader.dataset.metainfo
    return metric


def metric_values(metric: BaseMetric, loader: DataLoader) -> dict[str, float]:
    """Evaluate a metric that has seen everything; names without their prefix."""
    return {k.rpartition("/")[2]: v for k, v in metric.evaluate(len(loader.dataset)).items()}


class RecordingRefiner:
    """A refiner that remembers how it climbed."""

    def __init__(self, refiner) -> None:
        self.refiner = refiner
        self.fn = self.result = None

    def __call__(self, log_density_fn, y0: Tensor, *more, **known) -> RefinementResult:
        self.fn, self.result = log_density_fn, self.refiner(log_density_fn, y0, *more, **known)
        return self.result


def changed(refiner: Callable, **settings) -> Callable:
    """Return a copy of a refiner with other settings, such as ``num_steps``."""
    refiner = copy.copy(refiner)
    for name, value in settings.items():
        setattr(refiner, name, value)
    return refiner


@contextlib.contextmanager
def swapped_refiner(model: nn.Module, refiner: Callable | None) -> Iterator[None]:
    """Inside, a model refines with another refiner; the demo has one thread."""
    own = model.refiner
    model.refiner = refiner
    try:
        yield
    finally:
        model.refiner = own


def milliseconds_with(
    model: nn.Module, loader: DataLoader, refiners: Sequence[Callable | None], count: int
) -> list[float]:
    """Median wall times of one image or frame, loading left out, with every refiner.

    Args:
        model: In eval mode; its refiner is taken away for a moment and put back.
        loader: What `val_loader` gives.
        refiners: What refines; None is the detector alone.
        count: How many images to time.
    """

    def turn(refiner: Callable | None) -> Callable[[object], None]:
        @torch.inference_mode()
        def predict(batch: object) -> None:
            with swapped_refiner(model, refiner):
                model.test_step(batch)

        return predict

    turns = [turn(refiner) for refiner in refiners]
    return median_milliseconds(turns, itertools.islice(loader, count))
