"""Read boxes from a file: results of any detector, annotations, or mmdet's proposals."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.structures import InstanceData

from ..files import read_json
from .image_index import is_id

__all__ = ["BoxFile", "Complaints", "box_fault", "check_lists", "read_boxes"]


class Complaints:
    """Collects what is wrong with boxes, and says it in one line for each kind."""

    def __init__(self) -> None:
        self.kinds: dict[str, list[str]] = {}

    def __call__(self, fault: str, example: str) -> None:
        """Note one box with a fault, ``'kind'`` or ``'kind: detail'``."""
        kind, _, detail = fault.partition(": ")
        self.kinds.setdefault(kind, []).append(f"{example} ({detail})" if detail else example)

    def lines(self) -> list[str]:
        """One line for each kind, with the first example."""
        return [
            f"{len(examples)} box{'es' * (len(examples) > 1)}: {kind}; the first is {examples[0]}"
            for kind, examples in self.kinds.items()
        ]


@dataclass
class BoxFile:
    """The boxes of a file."""

    rows: list[dict]
    """``image_id``, ``bbox`` (x, y, width, height), and what else the file has."""
    content: dict | None = None
    """The whole file if it is an annotation file, whose ``annotations`` are the rows."""
    lacks_classes: bool = False
    """The file holds proposals, whose image ids are paths."""


def box_fault(box) -> str | None:
    """Why a ``bbox`` is none that can be refined, or None."""
    if not isinstance(box, (list, tuple)) or not all(isinstance(x, (int, float)) for x in box):
        return "bbox is not a list of numbers"
    if len(box) in (5, 8):
        return "a rotated box; boxes parallel to the axes are refined"
    if len(box) != 4:
        return f"bbox has {len(box)} numbers; expected x, y, width, height"
    if not all(math.isfinite(x) for x in box):
        return "a coordinate is not finite"
    if min(box[2:]) < 0:
        return "width or height is negative; expected x, y, width, height"
    if min(box[2:]) == 0:
        return "no area"
    return None


def check_lists(content, path: str | os.PathLike, names: Sequence[str]) -> None:
    """Raise ``ValueError`` unless a file in COCO's format has lists of mappings of these names.

    Args:
        content: of the file.
        path: of the file, for the message.
        names: such as ``('images', 'annotations', 'categories')``.
    """
    for name in names:
        part = content.get(name) if isinstance(content, Mapping) else None
        if not isinstance(part, list):
            got = "is missing" if part is None else f"is {part!r:.60}"
            raise ValueError(f"{path} is not in COCO's format: {name!r} {got}; expected a list")


def read_boxes(path: str | os.PathLike) -> BoxFile:
    """Read a list of results in COCO's format, an annotation file, or proposals of mmdet.

    Args:
        path: a ``.json`` file with either of the first two, or the ``.pkl`` of mmdet's
            ``DumpProposals``. Of a pickle only arrays and ``InstanceData`` are accepted.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has another format.
    """
    path = Path(path)
    if path.suffix in (".pkl", ".pickle"):
        return _read_proposals(path)
    content = read_json(path)
    if content is None:
        raise FileNotFoundError(f"there is no file {path}")
    if isinstance(content, Mapping) and {"images", "annotations"} <= content.keys():
        check_lists(content, path, ("images", "annotations"))
        rows, box_file = content["annotations"], BoxFile(content["annotations"], dict(content))
    else:
        rows, box_file = content, BoxFile(content if isinstance(content, list) else [])
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(
            f"{path} is neither a list of results nor an annotation file in COCO's format"
        )
    for number, row in enumerate(rows):
        if "image_id" not in row or "bbox" not in row:
            raise ValueError(
                f"{path}: entry {number} has no {'bbox' if 'image_id' in row else 'image_id'}; "
                "expected image_id, category_id, bbox and, for results, score"
            )
        score = row.get("score")
        if not is_id(row["image_id"]):
            raise ValueError(
                f"{path}: entry {number} has image_id {row['image_id']!r}; expected a number or a "
                "string"
            )
        if not (score is None or isinstance(score, (int, float))):
            raise ValueError(f"{path}: entry {number} has score {score!r}; expected a number")
    return box_file


class _ProposalsOnly(pickle.Unpickler):
    """Loads numpy's arrays and mmengine's ``InstanceData``, and refuses everything else."""

    def find_class(self, module: str, name: str):
        if (module, name) == ("mmengine.structures.instance_data", "InstanceData"):
            return InstanceData
        if module.startswith("numpy") and name in ("_reconstruct", "ndarray", "dtype", "scalar"):
            return super().find_class(module, name)
        raise ValueError(f"the pickle has {module}.{name}, which proposals do not")


def _read_proposals(path: Path) -> BoxFile:
    try:
        with path.open("rb") as file:
            content = _ProposalsOnly(file).load()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except (pickle.UnpicklingError, ValueError, EOFError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is not a file of mmdet's DumpProposals: {error}") from error
    rows = []
    for name, found in content.items() if isinstance(content, dict) else ():
        boxes = np.asarray(found["bboxes"], float).reshape(-1, 4)
        for (x1, y1, x2, y2), score in zip(boxes.tolist(), np.asarray(found["scores"]).tolist()):
            rows.append(dict(image_id=name, bbox=[x1, y1, x2 - x1, y2 - y1], score=float(score)))
    if not rows:
        raise ValueError(f"{path} has no proposals")
    return BoxFile(rows, lacks_classes=True)
