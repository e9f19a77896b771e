"""Refine boxes that are in a file: another detector's results, annotations, or proposals."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config

from ..energy import Refiner
from ..files import file_digest, read_json, write_new_text
from ..models.detectors import EBMDetector
from .auditing.scoring import Scores
from .box_file import BoxFile, Complaints, box_fault, check_lists, read_boxes
from .fitting.clock import Clock
from .image_index import ImageFile, images_by_id, is_id, listed_images, look_at
from .refined_rows import refine_rows
from .refiner_of_call import refiner_of_call
from .trained_detector import file_pipeline, image_pipeline, load_detector, read_config
from .unfinished_refinement import UnfinishedRefinement

__all__ = ["refine_boxes", "refine_file"]


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

    The file is written at the end. What is done until then is kept in a folder
    ``OUT.unfinished`` beside it: the same call goes on where an interrupted one was, and does
    images again that have changed since.

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
        FileExistsError: ``out`` exists, another call is at work on it, or an interrupted one had
            other boxes, weights or settings.
        PermissionError, NotADirectoryError: ``out`` cannot be written there.
        ValueError: there is no such device, a file has another format, the config has no energy
            head, or the classes of the boxes are not known and the head needs them.
        CheckpointError: the checkpoint does not fit, or has no energy head.
    """
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
    unfinished = UnfinishedRefinement(out, _settings(cfg, checkpoint, boxes, ann_file, steps))
    model = load_detector(cfg, checkpoint, device, needs_head=True)
    labels = _labels(found, listing, model)
    refiner = refiner_of_call(model, True, steps) or model.refiner
    with unfinished.begin(say) as kept:
        rows, summary = refine_boxes(model, cfg, found.rows, labels, index, refiner, kept, say)
        content = {**found.content, "annotations": rows} if found.content else rows
        write_new_text(out, json.dumps(content, indent=1) + "\n")
    return summary


def _settings(
    cfg: Config,
    checkpoint: str | os.PathLike,
    boxes: str | os.PathLike,
    ann_file: str | os.PathLike | None,
    steps: int | None,
) -> dict:
    """What tells a call that may go on from another one, besides the images; JSON types."""
    # Before the model is built, as in predict: mmdet's detectors write into their config.
    config = repr((cfg.model, file_pipeline(cfg)))
    return dict(
        config=hashlib.sha256(config.encode()).hexdigest(),
        # One that is a URL, or not there, has no digest.
        weights=file_digest(checkpoint) if os.path.isfile(checkpoint) else os.fspath(checkpoint),
        boxes=file_digest(boxes),
        annotations=None if ann_file is None else file_digest(ann_file),
        steps=steps,
    )


def refine_boxes(
    model: EBMDetector,
    cfg: Config,
    rows: Sequence[Mapping],
    labels: Sequence[int | None],
    images: Mapping[int | str, ImageFile],
    refiner: Refiner | None,
    kept: Scores,
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
        kept: what is known of each image, which gets what this call finds.
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
    for image_id in list(kept.results):
        if not _is_current(kept.results[image_id], images.get(image_id)):
            del kept.results[image_id]
    load, ious, moved = image_pipeline(cfg), [], []

    def refine_one(image_id: int | str) -> dict:
        image, fault = look_at(images[image_id])
        if fault is not None:
            return dict(image=image_id, fault=fault)
        digest = file_digest(image.path)  # first: of no later content than what is refined
        given = load(image.path), rows, by_image[image_id], labels, refiner
        return dict(image=image_id, digest=digest, boxes=list(refine_rows(model, *given)))

    numbers_done = itertools.count(len(by_image.keys() & kept.results) + 1)

    def progress(share: float) -> None:
        done = next(numbers_done)
        if done % 100 == 0:
            say(f"{done} of {len(by_image)} images")

    clock = Clock(kept.folder / "clock.json", math.inf)
    kept.run(list(by_image), refine_one, clock, math.inf, progress)
    for image_id, numbers in by_image.items():
        result = kept.results[image_id]
        for number in numbers if "fault" in result else ():
            complain(result["fault"], _example(number, rows[number]))
        for number, change, iou in result.get("boxes", ()):
            if isinstance(change, str):
                complain(change, _example(number, rows[number]))
                continue
            out[number].update(change)
            ious.append(iou)
            if "bbox" in change:
                moved.append(number)
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


def _is_current(result: Mapping, image: ImageFile | None) -> bool:
    """Whether the result of an earlier call is of an image as it is now, and not of its fault."""
    there = "fault" not in result and image is not None and image.path is not None
    return there and result["digest"] == file_digest(image.path)


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
