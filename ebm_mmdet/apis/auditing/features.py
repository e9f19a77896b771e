"""Features and detections of the audited images, computed once where they fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from torch import Tensor

from ...models.detectors import EBMDetector
from ...models.detectors.peculiarities import predict_boxes
from ...models.flip_mean import mirror, mirror_boxes
from ...models.heads import EBMBBoxHead
from ...models.pixels import network_pixels
from ..feature_cache import TrainingView, collate
from ..fitting.views import BOXES, VIEWS, Batch, bytes_of, make_view
from ..trained_detector import image_pipeline
from .annotations import AnnotatedImage

__all__ = ["AuditImages", "Seen", "ViewCache", "over_flips"]


class Seen(NamedTuple):
    """What the detector makes of an image; boxes in pixels of the network's input."""

    maps: tuple[Tensor, ...]
    """(1, C, H, W) each."""
    scale: Tensor
    """(4,) network pixels per pixel of the image file."""
    input_shape: tuple[int, int]
    boxes: Tensor
    """(d, 4) detections."""
    scores: Tensor
    labels: Tensor
    flips: tuple[str, ...] = ("",)
    """The views; the detections are those of the first, the image as it is."""
    mirrored: tuple[tuple[Tensor, ...], ...] = ()
    """The maps of the further views."""

    @property
    def views(self) -> list[tuple[Tensor, ...]]:
        """The maps of every view."""
        return [self.maps, *self.mirrored]


class AuditImages:
    """The images of an annotation file as items of the config's test pipeline.

    ``images[index, flip]`` is the item of a training view, with its annotations; ``flip`` is
    ``''``, ``'horizontal'``, ``'vertical'`` or ``'diagonal'``.

    Args:
        cfg: config of the detector.
        images: the annotated images.
        class_blind: detections have the label 0, as all annotations then have.
    """

    def __init__(
        self, cfg: Config, images: Sequence[AnnotatedImage], class_blind: bool = False
    ) -> None:
        self.images, self.class_blind = images, class_blind
        self._load = image_pipeline(cfg)

    def item(self, index: int) -> dict:
        """Input and data sample of an image."""
        return self._load(self.images[index].image.path, index)

    def __getitem__(self, key: tuple[int, str]) -> dict:
        index, flip = key
        item, here = self.item(index), self.images[index]
        sample, inputs = item["data_samples"], item["inputs"]
        boxes = torch.from_numpy(here.boxes).float() * network_pixels(sample, torch.device("cpu"))
        boxes = mirror_boxes(boxes, flip, inputs.shape[-2:])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.from_numpy(here.labels))
        return dict(inputs=mirror(inputs, flip).contiguous(), data_samples=sample)

    @torch.no_grad()
    def see(self, model: EBMDetector, index: int, flips: Sequence[str] = ("",)) -> Seen:
        """Run the detector on an image; all of its boxes are kept.

        Args:
            model: the detector.
            index: position of the image.
            flips: ``''``, the image as it is, and mirror images whose maps are wanted too.
        """
        batch = model.data_preprocessor(pseudo_collate([self.item(index)]), False)
        inputs, samples = batch["inputs"], batch["data_samples"]
        with model.maps_of(inputs) as maps:
            (found,) = predict_boxes(model.detector, inputs, samples, False)
        boxes = found.pred_instances
        return Seen(
            tuple(maps()),
            network_pixels(found, inputs.device),
            tuple(inputs.shape[-2:]),
            boxes.bboxes.float(),
            boxes.scores.float(),
            torch.zeros_like(boxes.labels) if self.class_blind else boxes.labels,
            tuple(flips),
            tuple(tuple(model.extract_maps(mirror(inputs, flip))) for flip in flips[1:]),
        )


def over_flips(
    seen: Seen,
    boxes: Tensor,
    head: EBMBBoxHead,
    ask: Callable[[Sequence[Tensor], Tensor, Tensor], Tensor],
) -> Tensor:
    """The mean over the views of what a head says about boxes of an image, float64.

    Args:
        seen: the image.
        boxes: (n, 4) in pixels of the network's input.
        head: whose ``prepare`` reads the maps.
        ask: takes feats, boxes (n, 4) and images (n,) to (n, ...), which mirroring does not change.
    """
    images = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
    total: Tensor | float = 0.0
    for flip, maps in zip(seen.flips, seen.views):
        feats = head.prepare(maps, input_shape=seen.input_shape)
        there = mirror_boxes(boxes, flip, seen.input_shape)
        total = total + ask(feats, there, images).double()
    return total / len(seen.flips)


class ViewCache:
    """Training views of some images, as they are and flipped.

    Args:
        model: the detector; it runs once for each view.
        images: the images.
        order: which to take, in this order, while there is room and time.
        flips: see :func:`flips_of`; each image is taken with one of them, then with the next.
        cache_bytes: memory for the features.
        late: says whether the time for this is over.
        progress: receives the share that is done.
    """

    def __init__(
        self,
        model: EBMDetector,
        images: AuditImages,
        order: Sequence[int],
        flips: Sequence[str],
        cache_bytes: float,
        late: Callable[[], bool] = lambda: False,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        self.views: list[TrainingView] = []
        self.image_of: list[int] = []
        data, used = SimpleNamespace(train=images, held_out=frozenset()), 0
        # An image with flip k, the next one with flip k + 1: a part of the passes is balanced.
        passes = [
            (index, flips[(position + turn) % len(flips)])
            for turn in range(len(flips))
            for position, index in enumerate(order)
        ]
        for done, key in enumerate(passes, 1):
            if late() and len(self.views) > 1:
                break
            view = make_view(model, data, key)
            if view is None:
                continue
            used += bytes_of(view)
            if used > cache_bytes and len(self.views) > 1:
                break
            self.views.append(view)
            self.image_of.append(key[0])
            progress(done / len(passes))

    def without(self, left_out: set[int]) -> Callable[[torch.Generator], Batch]:
        """A function that draws batches from the views of all other images.

        Raises:
            ValueError: there is no other view.
        """
        kept = [v for v, image in zip(self.views, self.image_of) if image not in left_out]
        if not kept:
            raise ValueError(
                "no image with a box is left to train on outside of this fold; annotate more "
                "images, give fewer --folds, or more --cache-gb"
            )

        # Where images have many boxes, half as many images: their maps cost more than the boxes.
        crowded = np.median([len(view.boxes) for view in kept]) >= 2 * BOXES / VIEWS
        number = VIEWS // 2 if crowded else VIEWS

        def draw(generator: torch.Generator) -> Batch:
            chosen = torch.randint(len(kept), (number,), generator=generator).tolist()
            return collate([kept[i] for i in chosen], -(-BOXES // number), generator)

        return draw

    def __len__(self) -> int:
        return len(np.unique(self.image_of))
