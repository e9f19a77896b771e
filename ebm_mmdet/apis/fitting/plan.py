"""How the time of a fit is divided, from a few measurements; said before it begins."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..feature_cache import TrainingView, collate
from ..timing import timed
from .data import FitData
from .detections import Method
from .kind import Kind
from .rivals import RIVAL_SHARE
from .tuning import LEAST_SCORE, comparing_score
from .views import BOXES, VIEWS, bytes_of

__all__ = ["Measured", "Plan", "make_plan", "measure"]

GB = 2**30
TUNING_PASSES = 14
"""Cost of all settings that are compared, in refinements of ten steps, about."""


@dataclass(frozen=True)
class Measured:
    """Costs of one image on this machine."""

    detect_s: float
    refine_s: float
    """Ten steps of the energy head."""
    compare_s: float
    """Likewise, with the boxes that settings are compared on."""
    view_s: float
    """Loading, augmentation and features."""
    view_bytes: int
    step_s: float
    """One iteration of the training of both heads."""


@dataclass(frozen=True)
class Plan:
    """Seconds of each part, and numbers of images."""

    cache_s: float
    train_s: float
    tune_s: float
    judge_s: float
    end_s: float
    """Table, checkpoint, page, pictures."""
    tune_images: int
    judge_images: int
    """Images that there should be time for."""
    fits_in_cache: bool

    @property
    def seconds(self) -> float:
        """Of all parts."""
        return self.cache_s + self.train_s + self.tune_s + self.judge_s + self.end_s

    def to_dict(self) -> dict:
        return asdict(self)

    def sentence(
        self, measured: Measured, data: FitData, cache_gb: float, noun: str = "image"
    ) -> str:
        """What will be done, and how long it will take."""
        size = measured.view_bytes * len(data.indices) / GB
        cache = f"cached, {size:.2f} GB for each version of the {noun}s out of {cache_gb:g} GB"
        if not self.fits_in_cache and size > cache_gb:
            cache = (
                f"computed for each batch, since all would need {size:.1f} GB of {cache_gb:g} GB"
            )
        elif not self.fits_in_cache:
            once = _minutes(measured.view_s * len(data.indices))
            cache = f"computed for each batch, since all of them once would take {once}"
        share = "" if self.judge_images >= len(data.judge) else f" of {len(data.judge)}"
        parts = dict(
            features=self.cache_s, training=self.train_s, tuning=self.tune_s, judging=self.judge_s
        )
        times = ", ".join(f"{name} {_minutes(value)}" for name, value in parts.items())
        return (
            f"{data.images} {noun}s with {data.boxes} boxes to train on, {self.tune_images} to "
            f"tune on, {self.judge_images}{share} to judge on. Features are {cache}. "
            f"Times: {times}."
        )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


@torch.no_grad()
def measure(kind: Kind, model: Any, data: FitData) -> Measured:
    """Time one image through all that is done with it; a first image warms up.

    Raises:
        ValueError: no training image keeps a box through its augmentation.
    """
    usual = Method("measured", model.refiner, model.energy_head, LEAST_SCORE)
    for position in (0, min(1, len(data.tune) - 1)):
        image = kind.detect(model, data.tune[position], data.max_dets)
        _, refine_s = kind.refine(model, usual, image)
        least = comparing_score(kind, [image], kind.num_objects(data.tune, [position]))
        _, compare_s = kind.refine(model, usual._replace(min_score=least), image)
    view = None
    for index in data.indices[:50]:
        start = time.perf_counter()
        view = kind.view(model, data, index)
        view_s = time.perf_counter() - start
        if view is not None:
            break
    if view is None:
        raise ValueError(
            f"no training {kind.noun} keeps a box through its augmentation; look at the pipeline "
            "of train_dataloader, and at the annotations"
        )
    step_s = _step_seconds(model, view)
    return Measured(image.seconds, refine_s, compare_s, view_s, bytes_of(view), step_s)


@torch.enable_grad()
def _step_seconds(model: Any, view: TrainingView) -> float:
    """Time of an iteration of a copy of the energy head, and that of the regression head."""
    head = copy.deepcopy(model.energy_head).train()
    device = next(head.parameters()).device
    maps, *targets = collate([view] * VIEWS, -(-BOXES // VIEWS), torch.Generator().manual_seed(0))
    maps, targets = [each.to(device) for each in maps], [each.to(device) for each in targets]

    def step() -> None:
        parts = head.loss(head.prepare(maps), *targets)
        sum(value for key, value in parts.items() if key.startswith("loss")).backward()

    step()  # warms up
    return (1 + RIVAL_SHARE) * timed(step)[1]


def make_plan(measured: Measured, data: FitData, seconds: float, cache_gb: float) -> Plan:
    """Divide ``seconds``: at most a quarter for judging and a seventh for tuning.

    Of the rest at most a third goes into the cache, for no more augmented images than half of
    those that the training draws, and the training gets what is left.
    """
    end = 0.05 * seconds
    each = measured.detect_s + 2 * measured.refine_s
    judge = min(0.25 * seconds, 1.2 * each * len(data.judge))
    judged = min(max(int(judge / (1.2 * each)), 1), len(data.judge))
    each = measured.detect_s + TUNING_PASSES * measured.compare_s + measured.refine_s
    room = max(int(cache_gb * GB / max(measured.view_bytes, 1)), 1)
    images = min(len(data.tune), room, max(int(seconds / 7 / each), 1))
    tune = min(seconds / 7, 1.2 * each * images)
    rest = seconds - end - judge - tune
    # One version of all images must fit, in memory and in a third of the rest.
    one = measured.view_s * len(data.indices)
    fits = measured.view_bytes * len(data.indices) <= cache_gb * GB and one <= rest / 3
    drawn = VIEWS * rest / max(measured.step_s, 1e-6)
    cache = min(rest / 3, max(one, min(12 * one, measured.view_s * drawn / 2))) if fits else 0.0
    return Plan(cache, rest - cache, tune, judge, end, images, judged, fits)
