"""Refine the rows of a file that belong to one image."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData

from ..box_iou import box_iou
from ..energy import Refiner
from ..models.detectors import EBMDetector
from ..models.detectors.refined_boxes import add_last_pixel, write_refined_boxes
from ..models.inclusive_boxes import rescale_inclusive, undo_rescale_inclusive
from ..models.pixels import network_pixels
from .coco_results import coco_fields
from .plain_fields import plain_fields

__all__ = ["refine_rows"]

BOXES_AT_ONCE = 1000
_TOO_NARROW = "narrower or lower than the 1 - 1/r pixels that legacy_plus_one takes off"


@torch.no_grad()
def refine_rows(
    model: EBMDetector,
    item: dict,
    rows: Sequence[Mapping],
    numbers: Sequence[int],
    labels: Sequence[int | None],
    refiner: Refiner | None,
) -> Iterator[tuple[int, dict | str, float]]:
    """Refine the boxes of an image.

    Args:
        model: the detector with its energy head.
        item: the image, as the test pipeline gives it.
        rows: all rows of the file, in COCO's format.
        numbers: of those that belong to the image, whose ``bbox`` has a finite, positive size.
        labels: class of each row of the file.
        refiner: of these boxes.

    Yields:
        Number of a row, its changed keys with JSON types, and the IoU of its new box with the old
        one; or, instead of the keys, why it cannot be refined.
    """
    batch = model.data_preprocessor(pseudo_collate([item]), False)
    inputs, (sample,) = batch["inputs"], batch["data_samples"]
    feats = model.read(model.extract_maps(inputs), inputs)
    height, width = sample.ori_shape[:2]
    xywh = torch.tensor([rows[i]["bbox"] for i in numbers], dtype=torch.float64)
    boxes = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
    scale = network_pixels(sample, inputs.device)
    # What the model adds to every box is not yet in what it is given.
    read = undo_rescale_inclusive(boxes, scale.cpu()) if model.legacy_plus_one else boxes
    inside = (read[:, 2:] > 0).all(1) & (read[:, :2] < read.new_tensor([width, height])).all(1)
    wide = (read[:, 2:] > read[:, :2]).all(1)
    for k in (~(inside & wide)).nonzero().flatten().tolist():
        yield numbers[k], "outside the image" if not inside[k] else _TOO_NARROW, 1.0
    kept = (inside & wide).nonzero().flatten()
    numbers = [numbers[k] for k in kept.tolist()]
    parts = zip(_parts(numbers), boxes[kept].split(BOXES_AT_ONCE), read[kept].split(BOXES_AT_ONCE))
    for part, old, given in parts:
        given = given.float().to(inputs.device)
        given_labels = torch.tensor([labels[i] for i in part], device=inputs.device)
        # Not model.move: its min_score would leave boxes out for another detector's scores.
        (reference,), (result,) = model.find_modes(feats, [given * scale], [given_labels], refiner)
        here = copy.copy(sample)
        here.pred_instances = InstanceData(bboxes=given, labels=given_labels)
        write_refined_boxes(here, scale, reference, result, model.clip_boxes)
        if model.legacy_plus_one:
            add_last_pixel(here.pred_instances, scale)
        still = rescale_inclusive(given, scale) if model.legacy_plus_one else given
        # Of those that the refiner has not moved, clip_boxes='all' clips some all the same.
        unmoved = (result.y == 0).all(1) | (here.pred_instances.bboxes == still).all(1)
        yield from zip(part, *_changes(rows, part, old.numpy(), here, unmoved.tolist()))


def _changes(
    rows: Sequence[Mapping],
    part: Sequence[int],
    old: np.ndarray,
    sample: DetDataSample,
    unmoved: Sequence[bool],
) -> tuple[list[dict], list[float]]:
    """Changed keys of each row, and IoU of the new box with the old one.

    Args:
        rows: all rows of the file.
        part: numbers of n of them.
        old: (n, 4) ``(x1, y1, x2, y2)`` in pixels of the file, their boxes.
        sample: with the n refined boxes in the same unit.
        unmoved: of each, whether it keeps its numbers.
    """
    new = sample.pred_instances.bboxes.cpu().double().numpy()
    ious = np.where(unmoved, 1.0, box_iou(new, old))
    fields, changes = plain_fields(sample), []
    for k, number in enumerate(part):
        change = coco_fields(fields, k)
        if not unmoved[k]:
            x1, y1, x2, y2 = new[k].tolist()
            change["bbox"] = [round(x, 3) for x in (x1, y1, x2 - x1, y2 - y1)]
            if "area" in rows[number] and not rows[number].get("segmentation"):
                change["area"] = round((x2 - x1) * (y2 - y1), 3)
        elif change.get("modes"):
            change["modes"][0] = list(rows[number]["bbox"])  # the first mode is the box
        changes.append(change)
    return changes, ious.tolist()


def _parts(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), BOXES_AT_ONCE):
        yield numbers[start : start + BOXES_AT_ONCE]
