"""Batches to train heads on: from cached features where these fit into memory, else on the fly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor

from ...models.detectors import EBMDetector
from ..feature_cache import TrainingView, collate
from .clock import Clock
from .data import FitData
from .image_set import image_key
from .items import read_item

__all__ = ["Batches", "bytes_of", "make_view"]

Batch = tuple[list[Tensor], Tensor, Tensor, Tensor]

MOST_VERSIONS = 12
"""Augmented versions of each image in the cache; more change little."""
VIEWS, BOXES = 8, 32
"""Images and boxes of a batch."""


@torch.no_grad()
def make_view(model: EBMDetector, data: FitData, index: int) -> TrainingView | None:
    """Features and boxes of one augmented training image, on the CPU.

    None if its augmentation has left no box, or has put an image in its place that must not be
    trained on (mmengine's data sets replace an image without boxes by another one).
    """
    item = read_item(data.train, index, image_key)
    sample = item["data_samples"]
    if str(sample.metainfo.get("img_path", "")) in data.held_out:
        return None
    batch = model.data_preprocessor(pseudo_collate([item]), False)
    truth = batch["data_samples"][0].gt_instances
    boxes = getattr(truth.bboxes, "tensor", truth.bboxes).float()
    keep = model.energy_head.is_trainable_box(boxes)
    if not keep.any():
        return None
    maps = tuple(level[0].cpu() for level in model.extract_maps(batch["inputs"]))
    return TrainingView(maps, boxes[keep].cpu(), truth.labels[keep].cpu())


def bytes_of(view: TrainingView) -> int:
    """Memory of the features of a view."""
    return sum(level.numel() * level.element_size() for level in view.neck)


class Batches:
    """Draws batches of a detector's features, boxes and labels.

    Args:
        view: makes the features and boxes of an augmented training image of this index, or None if
            it cannot be trained on.
        indices: of the images that may be trained on.
        cache_bytes: memory for cached features; with less than one version of each image needs,
            features are computed for every batch.
        seconds: time for filling the cache. If it ends before every image is in it once, features
            are computed for every batch.
        clock: the clock of the fit.
        progress: receives the share of the cache that is filled.
    """

    def __init__(
        self,
        view: Callable[[int], TrainingView | None],
        indices: Sequence[int],
        cache_bytes: float,
        seconds: float,
        clock: Clock,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        self.view, self.indices = view, list(indices)
        self.cache: list[TrainingView] = []
        self._fill(cache_bytes, clock.used() + seconds, clock, progress)

    def _fill(self, cache_bytes: float, until: float, clock: Clock, progress) -> None:
        one_of_each, used = len(self.indices), 0
        order = self.indices * MOST_VERSIONS
        for done, index in enumerate(order):
            if clock.used() > until and done >= 1:
                break
            view = self.view(index)
            if view is not None:
                size = bytes_of(view)
                if used + size > cache_bytes or (done == 0 and size * one_of_each > cache_bytes):
                    break
                used += size
                self.cache.append(view)
            progress((done + 1) / len(order))
        else:
            done = len(order)
        self.versions = done / max(one_of_each, 1)
        if self.versions < 1:
            self.cache = []

    @property
    def cached(self) -> bool:
        return bool(self.cache)

    def draw(self, generator: torch.Generator) -> Batch:
        """Features (B, C, H, W) per level, boxes (N, 4), image of each (N,), labels (N,).

        Raises:
            ValueError: no training image keeps a box through its augmentation.
        """
        views: Sequence[TrainingView]
        if self.cache:
            chosen = torch.randint(len(self.cache), (VIEWS,), generator=generator).tolist()
            views = [self.cache[i] for i in chosen]
        else:
            views = self._fresh(generator)
        return collate(views, -(-BOXES // len(views)), generator)

    def _fresh(self, generator: torch.Generator, number: int = VIEWS // 2) -> list[TrainingView]:
        views, tries = [], 0
        while len(views) < number and tries < 50 * number:
            pick = int(torch.randint(len(self.indices), (1,), generator=generator))
            view = self.view(self.indices[pick])
            tries += 1
            if view is not None:
                views.append(view)
        if not views:
            raise ValueError(
                "no training image keeps a box through its augmentation; look at the pipeline of "
                "train_dataloader, and at the annotations"
            )
        return views
