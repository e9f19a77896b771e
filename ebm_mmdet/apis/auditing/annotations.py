"""The annotations that are audited, and those that cannot be, with the reason."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...files import read_json
from ..box_file import Complaints, box_fault, check_lists
from ..image_index import ImageFile, is_id, listed_images, look_at

__all__ = ["PARTS", "AnnotatedImage", "Annotations", "read_annotations"]

PARTS = ("images", "annotations", "categories")
"""Lists of an annotation file in COCO's format."""


@dataclass(frozen=True)
class AnnotatedImage:
    """The usable annotations of an image."""

    image: ImageFile
    rows: np.ndarray
    """(n,) positions in the file's ``annotations``."""
    boxes: np.ndarray
    """(n, 4) float64 ``(x1, y1, x2, y2)`` in pixels of the image file."""
    labels: np.ndarray
    """(n,) classes of the detector."""
    others: np.ndarray
    """(m, 4) boxes that are not audited: crowds, ignored ones, other categories."""


@dataclass
class Annotations:
    """An annotation file in COCO's format."""

    content: dict
    images: list[AnnotatedImage]
    """Those that can be read, in the order of the file; also images without a box."""
    category_ids: list[int | str | None]
    """Of each label; None for a class of the detector that the file does not have, and where
    classes do not count and the file has several categories."""
    complaints: Complaints = field(default_factory=Complaints)
    """What is not audited, and why."""

    @property
    def count(self) -> int:
        """Number of annotations that can be audited."""
        return sum(len(each.rows) for each in self.images)

    @property
    def category_names(self) -> dict[int | str, str]:
        """Of each category id."""
        return {each["id"]: str(each["name"]) for each in self.content["categories"]}


def read_annotations(
    ann_file: str | os.PathLike,
    folder: str | os.PathLike,
    classes: Sequence[str],
    progress: Callable[[float], None] = lambda share: None,
    class_blind: bool = False,
) -> Annotations:
    """Read an annotation file, and look at each image's header.

    Ids may be strings. Crowd and ignored boxes, boxes without area, of a category that the detector
    does not have, of an image that is missing, broken or of another size, and boxes outside
    their image are not audited; :attr:`Annotations.complaints` counts them by reason.

    Args:
        ann_file: file in COCO's format.
        folder: folder of its images.
        classes: names of the detector's classes.
        progress: receives the share of the images that have been looked at.
        class_blind: all categories are audited with the label 0, whatever the detector calls them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has another format, or nothing that can be audited.
    """
    content = read_json(ann_file)
    if content is None:
        raise FileNotFoundError(f"there is no annotation file {ann_file}")
    check_lists(content, ann_file, PARTS)
    index = listed_images(content, folder)
    labels = _labels(content, classes, ann_file, class_blind)
    faults = {}
    for done, (key, image) in enumerate(index.items(), 1):
        index[key], faults[key] = look_at(image)
        progress(done / len(index))
    several = class_blind and len(labels) > 1
    ids = [None] if several else _category_ids(labels, 1 if class_blind else len(classes))
    found = Annotations(content, [], ids)
    usable: dict = {key: [] for key, fault in faults.items() if fault is None}
    others: dict = {key: [] for key in usable}
    for number, row in enumerate(content["annotations"]):
        reason = _reason(row, labels, faults)
        if reason is None:
            usable[row["image_id"]].append(number)
            continue
        found.complaints(reason, f"annotations[{number}]")
        known = isinstance(row, Mapping) and is_id(row.get("image_id"))
        if known and row["image_id"] in others and box_fault(row.get("bbox")) is None:
            others[row["image_id"]].append(number)
    rows = content["annotations"]
    for key, numbers in usable.items():
        found.images.append(
            AnnotatedImage(
                index[key],
                np.array(numbers, int),
                _xyxy([rows[i]["bbox"] for i in numbers]),
                np.array([labels[rows[i]["category_id"]] for i in numbers], int),
                _xyxy([rows[i]["bbox"] for i in others[key]]),
            )
        )
    _drop_outside(found)
    if not found.count:
        reasons = "; ".join(found.complaints.lines()) or "it has no annotations"
        raise ValueError(f"nothing in {ann_file} can be audited: {reasons}")
    return found


def _reason(row, labels: Mapping, faults: Mapping) -> str | None:
    """Why an annotation is not audited."""
    if not isinstance(row, Mapping) or not {"image_id", "category_id", "bbox"} <= row.keys():
        return "image_id, category_id or bbox is missing"
    if not is_id(row["image_id"]) or row["image_id"] not in faults:
        return f"the image id is not known: {row['image_id']!r}"
    if faults[row["image_id"]] is not None:
        return faults[row["image_id"]]
    if row.get("iscrowd") or row.get("ignore"):
        return "a crowd, or marked as ignored"
    fault = box_fault(row["bbox"])
    if fault is not None:
        return fault
    if not is_id(row["category_id"]) or labels.get(row["category_id"]) is None:
        return "the detector does not have the category"
    return None


def _drop_outside(found: Annotations) -> None:
    for k, each in enumerate(found.images):
        width, height = each.image.size
        inside = (each.boxes[:, 2:] > 0).all(1) & (each.boxes[:, :2] < (width, height)).all(1)
        for row in each.rows[~inside]:
            found.complaints("outside the image", f"annotations[{row}]")
        found.images[k] = AnnotatedImage(
            each.image, each.rows[inside], each.boxes[inside], each.labels[inside], each.others
        )


def _labels(content: Mapping, classes: Sequence[str], ann_file, class_blind: bool) -> dict:
    """The detector's class of each category id, or 0; None for one that it does not have.

    Raises:
        ValueError: it has none of them.
    """
    number = {name: label for label, name in enumerate(classes)}
    for k, each in enumerate(content["categories"]):
        if not isinstance(each, Mapping) or not {"id", "name"} <= each.keys():
            raise ValueError(f"{ann_file}: categories[{k}] is {each!r}; expected 'id' and 'name'")
    if class_blind:
        return {each["id"]: 0 for each in content["categories"]}
    labels = {each["id"]: number.get(each["name"]) for each in content["categories"]}
    if all(label is None for label in labels.values()):
        names = [str(each["name"]) for each in content["categories"]]
        raise ValueError(
            f"{ann_file} has the categories {', '.join(names[:10]) or 'none'}, and the detector "
            f"the classes {', '.join(map(str, classes[:10])) or '(not known)'}: none is the same. "
            "The checkpoint names the classes (its dataset_meta), and the config's metainfo only "
            "where the checkpoint has none. Give a copy of the file in which each category has, "
            "beside its id, the name of the class that the detector finds its objects as, or audit "
            "without classes: --class-blind"
        )
    return labels


def _category_ids(labels: Mapping, number: int) -> list:
    ids: list = [None] * number
    for category, label in labels.items():
        if label is not None:
            ids[label] = category
    return ids


def _xyxy(boxes: Sequence[Sequence[float]]) -> np.ndarray:
    found = np.asarray(boxes, float).reshape(-1, 4)
    return np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], 1)
