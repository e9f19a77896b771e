"""Detections as a file in COCO's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..files import read_json

__all__ = ["CocoIds", "coco_dataset", "coco_fields", "coco_results"]


class CocoIds:
    """Ids of images and categories in a COCO annotation file.

    Args:
        ann_file: the file.
        classes: names of the detector's classes, in the order of its labels.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not COCO's format, or has no category of the name of a class.
    """

    def __init__(self, ann_file: str | Path, classes: Sequence[str]) -> None:
        content = read_json(ann_file)
        if content is None:
            raise FileNotFoundError(f"there is no annotation file {ann_file}")
        if not isinstance(content, dict) or not {"images", "categories"} <= content.keys():
            raise ValueError(f"{ann_file} has no 'images' and 'categories', which COCO's have")
        self.ann_file = ann_file
        self._images = {image["file_name"]: image["id"] for image in content["images"]}
        self._by_name = {Path(name).name: each for name, each in self._images.items()}
        self._ambiguous = len(self._by_name) < len(self._images)
        ids = {category["name"]: category["id"] for category in content["categories"]}
        missing = [name for name in classes if name not in ids]
        if missing:
            raise ValueError(
                f"{ann_file} has no category {missing[0]!r} of the detector's classes; it has "
                f"{', '.join(map(str, list(ids)[:10]))}"
            )
        self.categories = [ids[name] for name in classes]

    def image(self, path: str) -> int | str:
        """The id of an image file.

        Raises:
            ValueError: the annotation file does not list it, or lists several of its name.
        """
        parts = Path(path).parts
        for start in range(len(parts)):
            name = "/".join(parts[start:])
            if name in self._images:
                return self._images[name]
        name = Path(path).name
        if name not in self._by_name or self._ambiguous:
            raise ValueError(f"{self.ann_file} does not list {path}, or lists several {name}")
        return self._by_name[name]

    def check(self, paths: Sequence[str]) -> None:
        """Raise unless each image file has an id of its own.

        Raises:
            ValueError: see :meth:`image`; or two files are one image of the annotation file, which
                would have the detections of both.
        """
        of: dict[int | str, str] = {}
        for path in paths:
            image_id = self.image(path)
            if image_id in of:
                raise ValueError(
                    f"{of[image_id]} and {path} are one image in {self.ann_file}, id {image_id!r}; "
                    "give one of them"
                )
            of[image_id] = path


def coco_results(
    predictions: Sequence[Mapping], image_ids: Sequence[int | str], categories: Sequence[int]
) -> list[dict]:
    """Detections as COCO's list of results, which ``COCO.loadRes`` reads.

    Args:
        predictions: ``bboxes`` (n x 4, xyxy), ``scores`` and ``labels`` of each image, as lists,
            and what :func:`coco_fields` reads, if the model gives it.
        image_ids: id of each image.
        categories: id of the category of each label.

    Raises:
        ValueError: a detection has a label without a category.
    """
    results = []
    for found, image_id in zip(predictions, image_ids):
        rows = zip(found.get("bboxes", []), found.get("scores", []), found.get("labels", []))
        for i, ((x1, y1, x2, y2), score, label) in enumerate(rows):
            if int(label) >= len(categories):
                raise ValueError(
                    f"a detection has label {int(label)}, but there are {len(categories)} classes; "
                    "set metainfo.classes of the config's data to one name for each output of the "
                    "detector, or leave the annotation file out"
                )
            result = dict(
                image_id=image_id,
                category_id=categories[int(label)],
                bbox=[_rounded(value) for value in (x1, y1, x2 - x1, y2 - y1)],
                score=float(score),
            )
            results.append(result | coco_fields(found, i))
    return results


def coco_fields(found: Mapping, i: int) -> dict:
    """What our detectors know about a box beyond COCO's keys, as plain values.

    Args:
        found: of an image, as :func:`plain_fields` gives it.
        i: which of its boxes.

    Returns:
        Of these keys those that the model gives, with None for what is not finite: ``log_density``
        (f, a number), ``accepted_steps``, ``side_std`` (4) and ``side_interval`` (4 x 2) of x1, y1,
        x2, y2 in pixels, ``modes`` (K x 4, ``[x, y, width, height]`` as ``bbox``, which is the
        first) and ``mode_mass`` (K), where K differs between boxes.
    """
    fields: dict = {}
    if "log_density" in found:
        fields["log_density"] = _rounded(found["log_density"][i], 4)
    if "accepted_steps" in found:
        fields["accepted_steps"] = int(found["accepted_steps"][i])
    if "side_std" in found:
        fields["side_std"] = [_rounded(std) for std in found["side_std"][i]]
    if "side_interval" in found:
        ends = found["side_interval"][i]
        fields["side_interval"] = [[_rounded(end) for end in side] for side in ends]
    if "modes" in found:
        fields["modes"] = [
            [_rounded(value) for value in (x1, y1, x2 - x1, y2 - y1)]
            for x1, y1, x2, y2 in found["modes"][i]
        ]
    if "mode_mass" in found:
        fields["mode_mass"] = [_rounded(share, 4) for share in found["mode_mass"][i]]
    return fields


def _rounded(value: float | None, digits: int = 3) -> float | None:
    """Such as to a thousandth of a pixel; None for what JSON does not have."""
    known = value is not None and np.isfinite(value)
    return float(np.round(value, digits)) if known else None


def coco_dataset(
    predictions: Sequence[Mapping],
    files: Sequence[tuple[str, int, int]],
    classes: Sequence[str],
) -> dict:
    """Detections as a whole data set in COCO's format, with ids that count from 1.

    Args:
        predictions: see :func:`coco_results`.
        files: name, width and height of each image.
        classes: names of the classes, in the order of the labels.
    """
    images = [
        dict(id=i, file_name=name, width=width, height=height)
        for i, (name, width, height) in enumerate(files, start=1)
    ]
    # A detector may have more outputs than classes, such as one that was trained further.
    most = max((int(label) for each in predictions for label in each.get("labels", ())), default=-1)
    names = [*map(str, classes), *(f"class {i}" for i in range(len(classes), most + 1))]
    categories = [dict(id=i, name=name) for i, name in enumerate(names, start=1)]
    annotations = coco_results(
        predictions, [image["id"] for image in images], [each["id"] for each in categories]
    )
    for i, each in enumerate(annotations, start=1):
        width, height = each["bbox"][2:]
        known = width is not None and height is not None
        each.update(id=i, iscrowd=0, area=width * height if known else None)
    return dict(images=images, categories=categories, annotations=annotations)
