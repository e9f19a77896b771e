"""Features of a frozen detector, computed once, so that a head trains in minutes on a CPU."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from mmdet.structures import DetDataSample
from mmengine.dataset import pseudo_collate
from mmengine.runner import set_random_seed
from torch import Tensor, nn

from ..models.detectors import EBMDetector
from ..models.flip_mean import mirror
from .timing import timed

__all__ = [
    "TestImage",
    "TrainingView",
    "cache_test_images",
    "cache_training_views",
    "collate",
    "detect_images",
]


class TrainingView(NamedTuple):
    """One augmented training image."""

    neck: tuple[Tensor, ...]
    """Levels of the neck, (C, H, W) each."""
    boxes: Tensor
    """(n, 4) annotated boxes in network-input pixels, without ignore regions and slivers."""
    labels: Tensor
    """(n,) int64 classes of the boxes."""


class TestImage(NamedTuple):
    """One test image with the detector's boxes in its own pixels."""

    __test__ = False  # tells pytest that this class is not a test

    neck: tuple[Tensor, ...]
    """Levels of the neck, (1, C, H, W) each."""
    detections: DetDataSample
    """The detector's final boxes, at most ``max_per_img``."""
    candidates: DetDataSample | None
    """All boxes above the score threshold, if they were asked for or the wrapper does the NMS."""
    seconds: float
    """Run time of the detector alone, in seconds."""
    input_shape: tuple[int, int] = (0, 0)
    """(height, width) of the network's input."""
    mirrored: tuple[tuple[Tensor, ...], ...] = ()
    """``neck`` of each mirror image that was asked for."""
    mirrored_seconds: float = 0.0
    """Run time of these."""
    maps_seconds: float = 0.0
    """Run time of ``neck`` where it is of the enlarged image; else it comes from the detector."""


@torch.no_grad()
def cache_training_views(
    detector: EBMDetector, dataset: Sequence, rounds: int, seed: int
) -> list[TrainingView]:
    """Pass the data set ``rounds`` times through its augmentation and the frozen detector.

    Args:
        detector: the wrapper; only the detector inside is run.
        dataset: an mmdet training data set.
        rounds: number of augmented versions of every image.
        seed: seed of the augmentation.
    """
    set_random_seed(seed)
    detector.eval()
    views = []
    for index in [*range(len(dataset))] * rounds:
        batch = detector.data_preprocessor(pseudo_collate([dataset[index]]), False)
        annotated = batch["data_samples"][0].gt_instances
        boxes = getattr(annotated.bboxes, "tensor", annotated.bboxes).float()
        keep = detector.energy_head.is_trainable_box(boxes)
        if keep.any():
            neck = tuple(level[0].clone() for level in detector.extract_maps(batch["inputs"]))
            views.append(TrainingView(neck, boxes[keep], annotated.labels[keep]))
    return views


def cache_test_images(
    detector: EBMDetector,
    dataset: Sequence,
    max_per_img: int = 100,
    every_box: nn.Module | None = None,
    flips: Sequence[str] = (),
) -> list[TestImage]:
    """Detect on every image of a test data set, without refinement; keep boxes and features.

    The arguments are those of :func:`detect_images`.
    """
    return [*detect_images(detector, dataset, max_per_img, every_box, flips)]


@torch.no_grad()
def detect_images(
    detector: EBMDetector,
    dataset: Sequence,
    max_per_img: int | None = None,
    every_box: nn.Module | None = None,
    flips: Sequence[str] = (),
) -> Iterator[TestImage]:
    """Detect on one image of a test data set after the other, without refinement.

    Args:
        detector: the wrapper; only the detector inside is run.
        dataset: an mmdet test data set.
        max_per_img: how many of the detections are kept, best first; None for all.
        every_box: a detector of candidates before suppression, such as
            ``EnergyGuidedNMS().without_nms(detector.detector)``; by default that of the wrapper's
            own ``candidates``, if it has some.
        flips: mirror images whose features are wanted too, out of ``FLIPS`` of
            :mod:`ebm_mmdet.models.flip_mean`.
    """
    detector.eval()
    if every_box is None and detector.candidates is not None:
        every_box = detector.candidates.without_nms(detector.detector)
    for index in range(len(dataset)):
        batch = detector.data_preprocessor(pseudo_collate([dataset[index]]), False)
        inputs, samples = batch["inputs"], batch["data_samples"]
        start = time.perf_counter()
        with detector.maps_of(inputs) as maps_of_inputs:
            (found,) = detector.detector.predict(inputs, copy.deepcopy(samples), rescale=True)
        seconds = time.perf_counter() - start
        maps, maps_seconds = timed(maps_of_inputs)
        order = found.pred_instances.scores.argsort(descending=True, stable=True)
        found.pred_instances = found.pred_instances[order[:max_per_img]]
        candidates = None
        if every_box is not None:
            (candidates,) = every_box.predict(inputs, samples, rescale=True)
        start = time.perf_counter()
        mirrored = tuple(tuple(detector.extract_maps(mirror(inputs, flip))) for flip in flips)
        mirrored_seconds = time.perf_counter() - start
        shape = tuple(inputs.shape[-2:])
        yield TestImage(
            maps, found, candidates, seconds, shape, mirrored, mirrored_seconds, maps_seconds
        )


def collate(
    views: Sequence[TrainingView], boxes_per_view: int, generator: torch.Generator
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Batch some views, with a random selection of the boxes of each.

    Maps of different size are padded with zeros on the right and at the bottom, where no box reads
    them.

    Returns:
        Neck levels (B, C, H, W), boxes (N, 4), image of each box (N,), labels (N,).
    """
    necks = []
    for level in zip(*(view.neck for view in views)):
        height, width = (max(x.shape[d] for x in level) for d in (1, 2))
        batch = level[0].new_zeros(len(level), len(level[0]), height, width)
        for target, x in zip(batch, level):
            target[:, : x.shape[1], : x.shape[2]] = x
        necks.append(batch)
    picks = [torch.randperm(len(v.boxes), generator=generator)[:boxes_per_view] for v in views]
    return (
        necks,
        torch.cat([view.boxes[pick] for view, pick in zip(views, picks)]),
        torch.cat([torch.full_like(pick, i) for i, pick in enumerate(picks)]),
        torch.cat([view.labels[pick] for view, pick in zip(views, picks)]),
    )
