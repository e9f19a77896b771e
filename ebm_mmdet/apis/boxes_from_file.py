"""Refine boxes that are in a file: another detector's results, annotations, or proposals."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData

from ..box_iou import box_iou
from ..energy import Refiner
from ..files import read_json, write_json
from ..models.detectors import EBMDetector
from ..models.detectors.refined_boxes import add_last_pixel, write_refined_boxes
from ..models.inclusive_boxes import rescale_inclusive, undo_rescale_inclusive
from ..models.pixels import network_pixels
from .box_file import BoxFile, Complaints, box_fault, check_lists, read_boxes
from .coco_results import coco_fields
from .fitting.folder import writable_place
from .image_index import ImageFile, images_by_id, is_id, listed_images, look_at
from .plain_fields import plain_fields
from .refiner_of_call import refiner_of_call
from .trained_detector import image_pipeline, load_detector, read_config

__all__ = ["refine_boxes", "refine_file"]

BOXES_AT_ONCE = 1000
_TOO_NARROW = "narrower or lower than the 1 - 1/r pixels that legacy_plus_one takes off"


def refine_file(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike,
    images: str | os.PathLike,
    boxes: str | os.PathLike,
    out: str | os.PathLike,
    ann_file: str | os.PathLike | None = None,
    steps: int | None = None,
    device: str | None = None,
    say: Callable[[str], None] = print,
) -> dict:
    """Refine the boxes of a file with the features of the config's detector.

    Scores, order, ids and all other keys stay, and a box that does not move keeps its numbers,
    whatever the model's ``clip_boxes``; its ``min_score`` is about scores of its own detector, and
    is not applied. Each refined box gains the fields of :func:`coco_fields`. A mask
    (``segmentation``) stays as it is, and so does the ``area`` beside one. Crowds and boxes that
    cannot be refined stay as they are. Lines say how many of these there are, and why.

    Args:
        config: of an ``EBMDetector``, such as ``fit`` leaves.
        checkpoint: its checkpoint.
        images: folder of the images.
        boxes: see :func:`read_boxes`.
        out: the file to write, in the format of ``boxes`` (proposals: a list of results).
        ann_file: annotation file that lists the images and categories of a list of results.
            Without, the images are those whose names are the ids.
        steps: instead of the config's.
        device: ``'cpu'``, ``'cuda:0'``; by default a GPU if there is one.
        say: receives lines.

    Returns:
        ``boxes``, ``refined``, ``moved``, ``with_masks`` (moved boxes that have a mask),
        ``mean_iou`` (with the boxes before) and ``lines`` (about boxes that are not refined).

    Raises:
        FileNotFoundError: there is no such file or folder.
        FileExistsError: ``out`` exists.
        PermissionError, NotADirectoryError: ``out`` cannot be written there.
        ValueError: there is no such device, a file has another format, the config has no energy
            head, or the classes of the boxes are not known and the head needs them.
        CheckpointError: the checkpoint does not fit, or has no energy head.
    """
    if Path(out).exists():
        raise FileExistsError(f"{out} exists and is not overwritten; remove it, or choose another")
    writable_place(Path(out), "--out")
    found = read_boxes(boxes)
    listing = found.content
    if ann_file is not None:
        listing = read_json(ann_file)
        if listing is None:
            raise FileNotFoundError(f"there is no annotation file {ann_file}")
        check_lists(listing, ann_file, ("images", "categories"))
    if not Path(images).is_dir():
        raise FileNotFoundError(f"there is no folder {images}")
    if listing is None:
        index = images_by_id((row["image_id"] for row in found.rows), images)
    else:
        index = listed_images(listing, images)
    cfg = read_config(config)
    if str(cfg.get("default_scope")) == "mmdet3d":
        raise ValueError("this is the config of a 3D detector; refine moves boxes in images")
    if not str(cfg.get("model", {}).get("type")).endswith("EBMDetector"):
        raise ValueError(
            f"{cfg.filename or 'the config'} has no energy head; `python -m ebm_mmdet fit` trains "
            "one"
        )
    model = load_detector(cfg, checkpoint, device, needs_head=True)
    labels = _labels(found, listing, model)
    refiner = refiner_of_call(model, True, steps) or model.refiner
    rows, summary = refine_boxes(model, cfg, found.rows, labels, index, refiner, say)
    write_json(out, {**found.content, "annotations": rows} if found.content else rows)
    return summary


def refine_boxes(
    model: EBMDetector,
    cfg: Config,
    rows: Sequence[Mapping],
    labels: Sequence[int | None],
    images: Mapping[int | str, ImageFile],
    refiner: Refiner | None,
    say: Callable[[str], None] = print,
) -> tuple[list[dict], dict]:
    """Refine boxes in COCO's format; see :func:`refine_file`.

    Args:
        model: the detector with its energy head.
        cfg: its config, whose test pipeline loads the images.
        rows: ``image_id``, ``bbox`` and further keys.
        labels: class of each row, None if the detector does not have it.
        images: by id.
        refiner: of these boxes.
        say: receives lines.

    Returns:
        The new rows, and the summary.
    """
    complain, out = Complaints(), [dict(row) for row in rows]
    by_image: dict[int | str, list[int]] = {}
    for number, row in enumerate(rows):
        fault = box_fault(row["bbox"])
        if row.get("iscrowd") or row.get("ignore"):
            fault = "a crowd, or marked as ignored"
        if fault is None and row["image_id"] not in images:
            fault = "the image id is not known"
        if fault is None and labels[number] is None:
            fault = "the detector does not have the category"
        if fault is None:
            by_image.setdefault(row["image_id"], []).append(number)
        else:
            complain(fault, _example(number, row))
    load, ious, moved = image_pipeline(cfg), [], []
    for done, (image_id, numbers) in enumerate(by_image.items(), 1):
        image, fault = look_at(images[image_id])
        if fault is not None:
            for number in numbers:
                complain(fault, _example(number, rows[number]))
            continue
        for number, change, iou in _refine_image(
            model, load(image.path), rows, numbers, labels, refiner
        ):
            if isinstance(change, str):
                complain(change, _example(number, rows[number]))
                continue
            out[number].update(change)
            ious.append(iou)
            if "bbox" in change:
                moved.append(number)
        if done % 100 == 0:
            say(f"{done} of {len(by_image)} images")
    lines = complain.lines()
    for line in lines:
        say(f"left as they are: {line}")
    masks = [number for number in moved if rows[number].get("segmentation")]
    if masks:
        say(
            f"{len(masks)} of the moved boxes have a mask (segmentation), which stays as it was, "
            f"and so does its area; the first is {_example(masks[0], rows[masks[0]])}"
        )
    summary = dict(
        boxes=len(rows),
        refined=len(ious),
        moved=len(moved),
        with_masks=len(masks),
        mean_iou=float(np.mean(ious)) if ious else None,
        lines=lines,
    )
    return out, summary


@torch.no_grad()
def _refine_image(
    model: EBMDetector,
    item: dict,
    rows: Sequence[Mapping],
    numbers: Sequence[int],
    labels: Sequence[int | None],
    refiner: Refiner | None,
) -> Iterator[tuple[int, dict | str, float]]:
    """(row, changed keys, IoU of new and old box) of each box; a reason if it cannot be refined."""
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


def _labels(found: BoxFile, listing: Mapping | None, model: EBMDetector) -> list[int | None]:
    """The detector's class of each row; all 0 where the head reads no class."""
    head = model.energy_head
    if head.class_agnostic or head.num_classes == 1:
        return [0] * len(found.rows)
    if found.lacks_classes:
        raise ValueError(
            "proposals have no classes, but the energy head has an f for each of its "
            f"{head.num_classes} classes; train one with class_agnostic=True, or refine results"
        )
    if listing is None or not listing.get("categories"):
        raise ValueError(
            "the energy head has an f for each class, and the boxes tell category ids alone; give "
            "the annotation file with the categories' names (--ann)"
        )
    classes = list(model.dataset_meta.get("classes") or ())
    label = {name: number for number, name in enumerate(classes)}
    ids = {each.get("id"): label.get(each.get("name")) for each in listing["categories"]}
    given = (row.get("category_id") for row in found.rows)
    return [ids.get(each) if is_id(each) else None for each in given]


def _example(number: int, row: Mapping) -> str:
    return f"entry {number}, image {row['image_id']!r}, bbox {row['bbox']!r}"
