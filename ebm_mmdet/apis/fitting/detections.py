"""A detector's boxes with the features of their image, and what a method makes of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from mmdet.structures import DetDataSample
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ...energy import Refiner, evaluate_only
from ...evaluation.average_precision import coco_results
from ...models.detectors import EBMDetector
from ...models.detectors.peculiarities import predict_boxes
from ..timing import timed

__all__ = ["Detected", "Method", "coco_records", "detect", "refine", "unrefined"]


class Detected(NamedTuple):
    """What a detector finds in an image."""

    maps: tuple[Tensor, ...]
    """(1, C, H, W) each."""
    sample: DetDataSample
    """Boxes in pixels of the image file, scores and labels."""
    seconds: float
    """Time of the detector alone."""
    maps_seconds: float = 0.0
    """Time of the maps of an enlarged image."""


class Method(NamedTuple):
    """One way to move boxes."""

    name: str
    refiner: Refiner | Callable
    head: nn.Module
    """The energy head, whose maps and f the refiner gets."""
    min_score: float = 0.0
    reads_maps: bool = True
    """Whether boxes move by what maps say, so that the time of these counts."""


@torch.no_grad()
def detect(model: EBMDetector, item: dict, max_dets: int = 100) -> Detected:
    """Run the detector inside on one item of a test data set; the best boxes are kept."""
    batch = model.data_preprocessor(pseudo_collate([item]), False)
    inputs, samples = batch["inputs"], batch["data_samples"]
    with model.maps_of(inputs) as maps_of_inputs:
        (found,), seconds = timed(predict_boxes, model.detector, inputs, samples, True)
    boxes = found.pred_instances
    best = boxes.scores.argsort(descending=True, stable=True)[:max_dets]
    kept = InstanceData(
        bboxes=boxes.bboxes[best], scores=boxes.scores[best], labels=boxes.labels[best]
    )
    sample = DetDataSample(metainfo=found.metainfo, pred_instances=kept)
    maps, maps_seconds = timed(maps_of_inputs)
    return Detected(tuple(maps), sample, seconds, maps_seconds)


@torch.no_grad()
def refine(model: EBMDetector, method: Method, image: Detected) -> tuple[InstanceData, float]:
    """The boxes of an image after a method, clipped to the image, and the seconds it took.

    The model's own head and ``min_score`` are put back afterwards.
    """
    kept = model.energy_head, model.min_score, model.clip_boxes
    model.energy_head, model.min_score = method.head, method.min_score
    model.clip_boxes = "all"  # clipping alone is a gain for some detectors, so every method clips
    device = next(method.head.parameters()).device
    sample = copy.deepcopy(image.sample).to(device)
    maps = [level.to(device) for level in image.maps]

    def run() -> DetDataSample:
        return model.move(method.head.prepare(maps), [sample], True, method.refiner)[0]

    try:
        found, seconds = timed(run)
    finally:
        model.energy_head, model.min_score, model.clip_boxes = kept
    return found.pred_instances, seconds + method.reads_maps * image.maps_seconds


def unrefined(head: nn.Module) -> Method:
    """The detector's own boxes, clipped."""
    return Method("detector", evaluate_only, head, reads_maps=False)


def coco_records(image_id: int, found: InstanceData, num_classes: int) -> list[dict]:
    """Results in COCO's format, with the category ids of ``ImageSet.coco``, labels + 1."""
    boxes = found.bboxes.float().cpu().numpy()
    categories = range(1, num_classes + 1)
    return coco_results(image_id, boxes, found.scores.tolist(), found.labels.tolist(), categories)
