"""How far the detector's boxes lie from the objects of the training images, before any training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from mmdet.structures import DetDataSample
from pycocotools.coco import COCO
from torch import Tensor

from ...files import read_json, write_json
from ...models.detectors import EBMDetector
from ..residual_spread import FEWEST_BOXES
from ..residuals import matched_residuals
from .clock import Clock
from .data import FitData
from .detections import detect
from .image_set import ImageSet

__all__ = ["measure_residuals"]

ENOUGH_BOXES, MOST_IMAGES = 500, 100
"""The spread of 500 residuals is known to some 3 %."""
SCORES = (0.3, 0.05)
"""The lower one if too few boxes have the higher one, as with a detector that is unsure of all."""


def measure_residuals(
    model: EBMDetector,
    data: FitData,
    path: Path,
    seconds: float,
    clock: Clock,
    seed: int,
    progress: Callable[[float], None] = lambda share: None,
) -> Tensor:
    """Residuals of boxes that match an object, on images to tune on and then to train on.

    It ends with 500 boxes, 100 images, or the time, but not before one image.

    Args:
        model: the detector.
        data: the images.
        path: file that keeps the result; it is read if it is there.
        seconds: time for it.
        clock: the clock of the fit.
        seed: of the choice of training images.
        progress: receives the share that is done.

    Returns:
        (n, 4) truth minus detection in encoded coordinates, see
        :func:`~ebm_mmdet.apis.matched_residuals`; finite.
    """
    stored = read_json(path)
    if stored is not None:
        return _as_tensor(stored["residuals"])
    until = clock.used() + seconds
    classes = model.energy_head.num_classes
    found = {score: torch.zeros(0, 4) for score in SCORES}
    for done, (image_set, position) in enumerate(_images(data, seed)):
        if done and (clock.used() > until or len(found[SCORES[0]]) >= ENOUGH_BOXES):
            break
        sample = detect(model, image_set[position], data.max_dets).sample
        truth = image_set.coco([position], classes)
        for score in SCORES:
            found[score] = torch.cat([found[score], _of_an_image(sample, truth, classes, score)])
        progress(max(len(found[SCORES[0]]) / ENOUGH_BOXES, (done + 1) / MOST_IMAGES))
    usual, more = (found[score] for score in SCORES)
    residuals = usual if len(usual) >= FEWEST_BOXES else more
    rows = [[round(x, 6) for x in row] for row in residuals.tolist()]
    write_json(path, dict(residuals=rows))
    clock.save()
    return _as_tensor(rows)  # what an interrupted call reads again


def _as_tensor(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def _images(data: FitData, seed: int) -> Iterator[tuple[ImageSet, int]]:
    """At most 100 images in random order: those to tune on first, then training images."""
    generator = torch.Generator().manual_seed(seed)
    # Its data set has all training images, in the order of the items, with the test pipeline.
    train = ImageSet(data.tune.dataset, sorted(set(data.indices)))
    left = MOST_IMAGES
    for images in (data.tune, train):
        order = torch.randperm(len(images), generator=generator)[:left].tolist()
        left -= len(order)
        yield from ((images, position) for position in order)


def _of_an_image(sample: DetDataSample, truth: COCO, classes: int, score_thr: float) -> Tensor:
    """Finite residuals (n, 4) of the detections of the one image of ``truth``."""
    boxes = sample.pred_instances.cpu()
    boxes.bboxes = boxes.bboxes.float()
    (image_id,) = truth.imgs
    named = DetDataSample(metainfo=dict(img_id=image_id), pred_instances=boxes)
    residuals = matched_residuals(truth, [named], list(range(1, classes + 1)), score_thr)
    return residuals[residuals.isfinite().all(1)]
