"""The findings as files: a table, COCO's format, and what annotation tools import."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

from ...files import write_csv, write_json
from ..box_file import box_fault
from ..image_index import is_id
from .annotations import Annotations
from .findings import SIDES, Findings

__all__ = ["write_exports"]


def write_exports(
    folder: Path, annotations: Annotations, findings: Findings, threshold: float
) -> None:
    """Write ``audit.csv``, ``missing.csv``, ``audit_coco.json``, ``cvat.json``,
    ``label_studio.json``.

    Args:
        folder: where to.
        annotations: the annotations.
        findings: what was found.
        threshold: probability from which ``cvat.json`` and ``label_studio.json`` have the proposal.
    """
    if findings.boxes:
        write_csv(folder / "audit.csv", [_flat(each) for each in findings.boxes])
    if findings.missing:
        rows = [{**each, **_box_columns("bbox", each)} for each in findings.missing]
        for row in rows:
            del row["bbox"]
        write_csv(folder / "missing.csv", rows)
    write_json(folder / "audit_coco.json", coco(annotations, findings))
    write_json(folder / "cvat.json", cvat(annotations, findings, threshold))
    write_json(folder / "label_studio.json", label_studio(annotations, findings, threshold))


_NUMBERS = ("log_ratio", "surprise", "evidence", "probability", "iou", "support", "doubt")


def _flat(each: Mapping) -> dict:
    row = {key: each[key] for key in ("row", "id", "image_id", "file_name", "category")}
    row |= _box_columns("bbox", each) | _box_columns("proposal", each)
    row |= {key: each[key] for key in _NUMBERS}
    for name in SIDES:
        side = each["sides"][name]
        row |= {f"{name}_{key}": side[key] for key in ("shift_px", "z", "evidence")}
    return row


def _box_columns(name: str, each: Mapping) -> dict:
    return {f"{name}_{key}": value for key, value in zip("xywh", each[name])}


def coco(annotations: Annotations, findings: Findings) -> dict:
    """The annotation file with further keys; FiftyOne loads these as attributes.

    Each audited annotation gains ``audit_proposal``, ``audit_log_ratio``, ``audit_evidence``,
    ``audit_sides`` (``'left +3.1 px'``), and the names of FiftyOne's Brain: ``mistakenness_loc``,
    the probability that it is badly located, and ``possible_spurious``. Objects without annotation
    are a list of their own, ``possible_missing``, so that no trainer takes them for annotations.
    """
    content = copy.deepcopy(annotations.content)
    spurious = {each["row"] for each in findings.superfluous}
    for each in findings.boxes:
        content["annotations"][each["row"]].update(
            audit_proposal=each["proposal"],
            audit_log_ratio=each["log_ratio"],
            audit_evidence=each["evidence"],
            audit_sides=", ".join(marked_sides(each)),
            mistakenness_loc=each["probability"],
            possible_spurious=each["row"] in spurious,
        )
    content["possible_missing"] = [
        dict(
            image_id=each["image_id"],
            category_id=each["category_id"],
            bbox=each["bbox"],
            score=each["rank"],
        )
        for each in findings.missing
    ]
    return content


def marked_sides(each: Mapping) -> list[str]:
    """Such as ``['left +3.1 px']``; plus is to the right, or down."""
    return [
        f"{name} {side['shift_px']:+.1f} px"
        for name, side in each["sides"].items()
        if side["marked"]
    ]


def cvat(annotations: Annotations, findings: Findings, threshold: float) -> dict:
    """A file that CVAT reads as "COCO 1.0": flagged boxes moved, with attributes.

    CVAT takes an annotation without ``segmentation`` for a rectangle, and shows those
    ``attributes`` that the task's labels have: ``audit_probability`` and ``audit_sides``.
    """
    by_row = {each["row"]: each for each in findings.boxes}
    rows = []
    for number, row in enumerate(annotations.content["annotations"]):
        each = by_row.get(number)
        if each is None or each["probability"] < threshold:
            rows.append(row)
            continue
        box = each["proposal"]
        rows.append(
            {
                **row,
                "bbox": box,
                "area": round(box[2] * box[3], 2),
                "segmentation": [],
                "attributes": {
                    **(row.get("attributes") or {}),
                    "audit_probability": each["probability"],
                    "audit_sides": ", ".join(marked_sides(each)),
                },
            }
        )
    return {**annotations.content, "annotations": rows}


def label_studio(annotations: Annotations, findings: Findings, threshold: float) -> list[dict]:
    """Tasks for Label Studio: the annotations, and, as predictions, the flagged boxes moved.

    All annotations of a known category that have a box are there, also those that are not audited.
    An image that cannot be read and has no size in the file has no task.

    ``data.image`` is the file's name: serve the images by local or cloud storage and put its
    address before. The labelling interface is ``<RectangleLabels name="label" toName="image">``.
    """
    by_row = {each["row"]: each for each in findings.boxes}
    missing: dict = {}
    for each in findings.missing:
        missing.setdefault(each["image_id"], []).append(each)
    content = annotations.content
    names = {each["id"]: each["name"] for each in content["categories"]}
    annotated: dict = {}
    for row, each in enumerate(content["annotations"]):
        # Also what is not audited, such as crowds: a task without them would lose them.
        if isinstance(each, Mapping) and box_fault(each.get("bbox")) is None:
            known = all(is_id(each.get(key)) for key in ("image_id", "category_id"))
            if known and each["category_id"] in names:
                region = dict(row=row, bbox=each["bbox"], category=names[each["category_id"]])
                annotated.setdefault(each["image_id"], []).append(region)
    sizes = {each.image.id: each.image.size for each in annotations.images}
    tasks = []
    for image in content["images"]:
        here = annotated.get(image["id"], [])
        size = sizes.get(image["id"]) or (image.get("width"), image.get("height"))
        if not all(size):
            continue  # percents of a size that nobody knows
        found = [by_row[each["row"]] for each in here if each["row"] in by_row]
        flagged = [each for each in found if each["probability"] >= threshold]
        regions = [_region(each, each["proposal"], size, each["probability"]) for each in flagged]
        regions += [
            _region(each, each["bbox"], size, each["rank"]) for each in missing.get(image["id"], ())
        ]
        task = dict(
            data=dict(image=image["file_name"], image_id=image["id"]),
            annotations=[dict(result=[_region(each, each["bbox"], size) for each in here])],
        )
        if regions:
            worst = max(region["score"] for region in regions)
            task["predictions"] = [
                dict(model_version="ebm_mmdet audit", score=worst, result=regions)
            ]
        tasks.append(task)
    return tasks


def _region(each: Mapping, box, size: tuple[int, int], score: float | None = None) -> dict:
    """A rectangle in percent of the image."""
    x, y, width, height = box
    region = dict(
        id=f"{'box' if 'row' in each else 'new'}-{each.get('row', '-'.join(map(str, box)))}",
        type="rectanglelabels",
        from_name="label",
        to_name="image",
        original_width=size[0],
        original_height=size[1],
        image_rotation=0,
        value=dict(
            x=100 * x / size[0],
            y=100 * y / size[1],
            width=100 * width / size[0],
            height=100 * height / size[1],
            rotation=0,
            rectanglelabels=[each["category"]],
        ),
    )
    return region if score is None else {**region, "score": score}
