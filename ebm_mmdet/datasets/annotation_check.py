"""Checks of annotation files in COCO format, before minutes or days are spent on them.

mmdet and pycocotools read each value only when they need it. So a missing key becomes a KeyError
without the name of a file, often only after the first epoch, and annotations that they leave out
are left out silently.

A value that can only be one thing is filled in, in memory and with a message:

- ``iscrowd`` missing: 0, a single object;
- ``area`` missing, or 0 for every box: width times height of the box;
- annotation ids missing, not integers, or used twice: numbered from 1, since nothing refers to
  them.

Everything else is an error that names the file, the entry and the key.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

__all__ = ["AnnotationError", "check_class_names", "complete_annotations"]


class AnnotationError(ValueError):
    """An annotation file is not as expected; the message names file, entry, key and remedy."""


def check_class_names(content: dict, names: Sequence[str], source: str) -> None:
    """Check that the classes of a data set are categories of an annotation file.

    Args:
        content: content of an annotation file.
        names: the data set's ``metainfo['classes']``, or a single name.
        source: name of the file, for messages.

    Raises:
        AnnotationError: a class is not. The message suggests the category that may be meant.
    """
    names = [names] if isinstance(names, str) else list(names)
    known = [category["name"] for category in content.get("categories", ())]
    unknown = [name for name in names if name not in known]
    if unknown:
        close = difflib.get_close_matches(str(unknown[0]), known, 1)
        raise AnnotationError(
            f"{len(unknown)} of the {len(names)} classes are not among the categories of {source}, "
            f"the first of them is {unknown[0]!r}"
            + (f"; did you mean {close[0]!r}? " if close else "; ")
            + f"The file has {_some(known)}: set metainfo=dict(classes=(...)) of the data sets to "
            "names among these, and num_classes of the heads to their number"
        )
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise AnnotationError(f"the data set names its class {repeated[0]!r} twice")


def complete_annotations(content: dict, source: str, with_images: bool = True) -> list[str]:
    """Check the content of an annotation file, and complete it in place as far as possible.

    Args:
        content: ``images``, ``categories`` and ``annotations``; a test set may lack the last.
        source: name of the file, for messages.
        with_images: also check paths and sizes of the images, which a data set needs and a metric
            does not.

    Returns:
        One sentence for each kind of value that was filled in and for the annotations that mmdet
        will leave out.

    Raises:
        AnnotationError: the content is not what mmdet and pycocotools need, or none of the
            annotations is an object to train on.
    """
    images, categories = (_entries(content, key, source) for key in ("images", "categories"))
    annotations = _entries(content, "annotations", source) if "annotations" in content else []
    integer = "an integer, not a string"
    check = _Checker(source)
    check(images, "images", "id", _is_integer, integer)
    if with_images:
        check(images, "images", "file_name", lambda value: isinstance(value, str), "a path")
    for key in ("height", "width") if with_images else ():
        expected = "the size of the image in pixels, as it is on the disk"
        check(images, "images", key, lambda value: _is_number(value) and value > 0, expected)
    check(categories, "categories", "id", _is_integer, integer)
    check(categories, "categories", "name", lambda v: isinstance(v, str) and v != "", "a name")
    check.unique(images, "images", "id")
    check.unique(categories, "categories", "id")
    check.unique(categories, "categories", "name")
    check(annotations, "annotations", "image_id", _is_integer, integer)
    check(annotations, "annotations", "category_id", _is_integer, integer)
    check(annotations, "annotations", "bbox", _is_box, "[x, y, width, height], finite numbers")
    return [
        *_complete_crowds(annotations, check),
        *_complete_areas(annotations, check),
        *_complete_ids(annotations, source),
        *_left_out(images, categories, annotations, source),
    ]


def _entries(content: dict, key: str, source: str) -> list[dict]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        found = "no" if key not in content else "something else as"
        raise AnnotationError(
            f"{source} has {found} {key!r}; expected a list of objects in COCO format: 'images' "
            "with id, file_name, height, width; 'categories' with id, name; 'annotations' with id, "
            "image_id, category_id, bbox, area, iscrowd"
        )
    return entries


def _is_integer(value: object) -> bool:
    # 1.0 finds the entry of number 1, but a string does not.
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_box(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 4 and all(map(_is_number, value))


class _Checker:
    """Finds the entries of a file whose value of some key is not as expected."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __call__(
        self,
        entries: Sequence[dict],
        name: str,
        key: str,
        valid: Callable[[object], bool],
        expected: str,
    ) -> None:
        wrong = [i for i, entry in enumerate(entries) if key not in entry or not valid(entry[key])]
        if not wrong:
            return
        first = entries[wrong[0]]
        found = f"{key!r} is {first[key]!r:.60}" if key in first else f"there is no {key!r}"
        label = next(
            (f" ({k} {first[k]!r})" for k in ("file_name", "name", "id") if k in first), ""
        )
        raise AnnotationError(
            f"{self.source}: {name}[{wrong[0]}]{label}: {found}; expected {expected}. This "
            f"concerns {len(wrong)} of {len(entries)} {name}"
        )

    def unique(self, entries: Sequence[dict], name: str, key: str) -> None:
        counts = Counter(entry[key] for entry in entries)
        value, count = next(iter(counts.most_common(1)), (None, 1))
        if count > 1:
            raise AnnotationError(
                f"{self.source}: {count} of the {name} have the {key} {value!r}; expected a "
                "different one for each"
            )


def _complete_crowds(annotations: Sequence[dict], check: _Checker) -> list[str]:
    missing = [entry for entry in annotations if entry.get("iscrowd") is None]
    for entry in missing:
        entry["iscrowd"] = 0
    check(annotations, "annotations", "iscrowd", lambda value: value in (0, 1), "0 or 1")
    if not missing:
        return []
    return [f"{check.source}: {len(missing)} annotations without 'iscrowd' count as single objects"]


def _complete_areas(annotations: Sequence[dict], check: _Checker) -> list[str]:
    missing = [entry for entry in annotations if entry.get("area") is None]
    for entry in missing:
        entry["area"] = entry["bbox"][2] * entry["bbox"][3]
    check(annotations, "annotations", "area", _is_number, "the area in square pixels")
    lines = []
    if missing:
        lines.append(f"{len(missing)} annotations without 'area' get that of their box")
    boxes = [entry for entry in annotations if min(entry["bbox"][2:]) >= 1]
    if boxes and all(entry["area"] <= 0 for entry in boxes):
        for entry in boxes:
            entry["area"] = entry["bbox"][2] * entry["bbox"][3]
        lines.append(
            f"'area' is 0 in all {len(boxes)} annotations, which mmdet would leave out: each gets "
            "that of its box"
        )
    return [f"{check.source}: {line}" for line in lines]


def _complete_ids(annotations: Sequence[dict], source: str) -> list[str]:
    ids = [entry.get("id") for entry in annotations]
    if all(map(_is_integer, ids)) and len(set(ids)) == len(ids):
        return []
    for number, entry in enumerate(annotations, start=1):
        entry["id"] = number
    return [
        f"{source}: 'id' is missing, not an integer, or used twice in some annotations: all "
        f"{len(annotations)} are numbered from 1"
    ]


def _left_out(
    images: Iterable[dict], categories: Iterable[dict], annotations: Sequence[dict], source: str
) -> list[str]:
    """Report the annotations that mmdet leaves out silently; an error if none is left."""
    # Sizes are checked for a data set; a metric's file may lack them.
    sizes = {entry["id"]: (entry.get("width"), entry.get("height")) for entry in images}
    category_ids = {entry["id"] for entry in categories}
    reasons: Counter[str] = Counter()
    for entry in annotations:
        if entry["iscrowd"] or entry.get("ignore"):
            reasons["crowds or to be ignored"] += 1
        elif entry["image_id"] not in sizes:
            reasons["of an image that is not in the file"] += 1
        elif entry["category_id"] not in category_ids:
            reasons["of a category that is not in the file"] += 1
        elif min(entry["bbox"][2:]) < 1:
            reasons["less than a pixel wide or high (boxes are x, y, width, height in pixels)"] += 1
        elif entry["area"] <= 0:
            reasons["without an area"] += 1
        elif _is_outside(entry["bbox"], *sizes[entry["image_id"]]):
            reasons["outside of their image (boxes are x, y, width, height in pixels)"] += 1
    faults = {reason: n for reason, n in reasons.items() if not reason.startswith("crowds")}
    if not faults and reasons and sum(reasons.values()) == len(annotations):
        return [f"{source}: all {len(annotations)} annotations are crowds or to be ignored"]
    if not faults:
        return []
    text = "; ".join(f"{count} are {reason}" for reason, count in faults.items())
    if sum(reasons.values()) == len(annotations):
        raise AnnotationError(
            f"{source}: none of the {len(annotations)} annotations can be used: {text}"
        )
    return [
        f"{source}: {sum(faults.values())} of {len(annotations)} annotations are left out: {text}"
    ]


def _is_outside(box: Sequence[float], width: object, height: object) -> bool:
    if not (_is_number(width) and _is_number(height)):
        return False
    x, y, w, h = box
    return min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0)


def _some(names: Sequence[str], most: int = 10) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + rest
