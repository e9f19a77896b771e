"""Apply what was decided on the page: a new annotation file, never the old one."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from ...files import read_json, write_json
from ..box_file import box_fault, check_lists
from ..image_index import is_id
from .annotations import PARTS

__all__ = ["apply_decisions"]

KINDS = ("box", "missing", "superfluous")
DECISIONS = ("accept", "reject")


def apply_decisions(
    decisions: str | os.PathLike, ann_file: str | os.PathLike, out: str | os.PathLike
) -> dict:
    """Write an annotation file with the accepted changes.

    An accepted ``box`` gets the proposal, and keeps the old box as ``bbox_before_audit``; an
    accepted ``missing`` object becomes a new annotation, whose id is above all numbers among the
    ids; an accepted ``superfluous`` annotation is left out. Everything else stays. A mask
    (``segmentation``) stays as it is, and so does the ``area`` beside one.

    Args:
        decisions: the file that the page has saved.
        ann_file: the audited annotation file.
        out: the file to write.

    Returns:
        ``moved``, ``added``, ``removed``, and ``with_masks``, moved boxes that have a mask.

    Raises:
        FileNotFoundError: there is no such file.
        FileExistsError: ``out`` exists.
        ValueError: the decisions are not of this annotation file, or one is neither ``accept`` nor
            ``reject``.
    """
    if Path(out).exists():
        raise FileExistsError(f"{out} exists and is not overwritten; give a new name as --out")
    saved, content = read_json(decisions), read_json(ann_file)
    for path, value in ((decisions, saved), (ann_file, content)):
        if value is None:
            raise FileNotFoundError(f"there is no file {path}")
    if not isinstance(saved, dict) or not isinstance(saved.get("decisions"), list):
        raise ValueError(f"{decisions} has no decisions; give the file that the page has saved")
    check_lists(content, ann_file, PARTS)
    for number, each in enumerate(saved["decisions"]):
        if not isinstance(each, Mapping):
            raise ValueError(f"{decisions}: decision {number} is {each!r}; expected a mapping")
        if each.get("decision") not in DECISIONS:
            raise ValueError(
                f"{decisions}: decision {number} is {each.get('decision')!r}; expected "
                f"{' or '.join(DECISIONS)}. Correct it, or remove it to leave its entry as it is"
            )
    accepted = [each for each in saved["decisions"] if each.get("decision") == "accept"]
    # What is no annotation was not audited, and stays.
    rows = [dict(row) if isinstance(row, Mapping) else row for row in content["annotations"]]
    removed, done = set(), Counter()
    for number, each in enumerate(accepted):
        if each.get("kind") not in KINDS:
            raise ValueError(
                f"{decisions}: decision {number} has kind {each.get('kind')!r}; expected "
                f"{', '.join(KINDS)}"
            )
        if each["kind"] == "missing":
            continue
        row = rows[_row_of(each, content["annotations"], decisions, ann_file)]
        if each["kind"] == "superfluous":
            removed.add(each["row"])
            continue
        row["bbox_before_audit"], row["bbox"] = row["bbox"], _box(each, "proposal", decisions)
        if row.get("segmentation"):
            done["with_masks"] += 1
        elif "area" in row:
            row["area"] = round(row["bbox"][2] * row["bbox"][3], 2)
        done["moved"] += 1
    kept = [row for number, row in enumerate(rows) if number not in removed]
    known = _by_page_id(image["id"] for image in content["images"])
    classes = _by_page_id(category["id"] for category in content["categories"])
    ids = [row.get("id") for row in rows if isinstance(row, Mapping)]
    # Also floats, as pandas writes ids, but not its NaN for a row without one.
    numbers = [math.floor(each) for each in ids if _is_finite(each)]
    free = max(numbers, default=0) + 1
    for each in accepted:
        if each["kind"] != "missing":
            continue
        found = {}
        for key, there in (("image_id", known), ("category_id", classes)):
            given = each.get(key)
            if not is_id(given) or _page_id(given) not in there:
                raise ValueError(f"{ann_file} has no {key} {given!r} of {decisions}")
            found[key] = there.get(given, there[_page_id(given)])
        box = _box(each, "bbox", decisions)
        kept.append(
            dict(
                id=free + done["added"],
                image_id=found["image_id"],
                category_id=found["category_id"],
                bbox=box,
                area=round(box[2] * box[3], 2),
                iscrowd=0,
                added_by_audit=True,
            )
        )
        done["added"] += 1
    write_json(out, {**content, "annotations": kept})
    return dict(
        moved=done["moved"],
        added=done["added"],
        removed=len(removed),
        with_masks=done["with_masks"],
    )


def _is_finite(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _page_id(value: object) -> object:
    """An id as the page has it, whose numbers have 53 bits."""
    rounds = isinstance(value, (int, float)) and abs(value) > 2**53
    return float(value) if rounds else value


def _by_page_id(ids: Iterable[int | str]) -> dict:
    """The ids by themselves, and by what the page makes of them."""
    exact = {each: each for each in ids}
    return {_page_id(each): each for each in reversed(exact)} | exact


def _row_of(each: Mapping, rows: list[dict], decisions, ann_file) -> int:
    """Position of the annotation that a decision is about.

    Raises:
        ValueError: it is not there, or not the one that was audited.
    """
    number = each.get("row")
    fits = (
        isinstance(number, int)
        and 0 <= number < len(rows)
        and isinstance(rows[number], Mapping)
        and _page_id(rows[number].get("id")) == _page_id(each.get("id"))
        and rows[number].get("bbox") == each.get("bbox")
    )
    if not fits:
        raise ValueError(
            f"annotations[{number}] of {ann_file} is not what {decisions} is about (id "
            f"{each.get('id')!r}, bbox {each.get('bbox')!r}); give the file that was audited"
        )
    return number


def _box(each: Mapping, key: str, decisions) -> list[float]:
    box = each.get(key)
    fault = box_fault(box)
    if fault is not None:
        raise ValueError(f"{decisions}: {key} is {box!r}: {fault}")
    return [float(x) for x in box]
