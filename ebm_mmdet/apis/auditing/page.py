"""The page on which findings are accepted or rejected: one folder, opened without a server."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np

from ...files import PARTIAL, open_atomic, write_text
from .annotations import Annotations
from .findings import SIDES, Findings

__all__ = ["write_page"]

MOST_SHOWN = 5000
"""Entries of each list on the page; the files have all of them."""
LONGEST = 480
"""Longest side of a picture in pixels; larger cut-outs are scaled down."""
AROUND = 0.7
"""Margin around both boxes, in units of their size."""
LEAST_AROUND = 16
OWN_NAMES = re.compile(
    rf"[0-9a-f]{{16}}\.jpg|\.[0-9a-f]{{16}}\.jpg\.[0-9a-f]+{re.escape(PARTIAL)}|\d{{6}}\.jpg"
)
"""Of pictures, of those that an interrupted call has left half written, and of earlier versions."""
JPEG = [
    *(cv2.IMWRITE_JPEG_QUALITY, 95),
    # Colours as sharp as brightness: small cut-outs are shown enlarged.
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
]


def write_page(
    folder: Path,
    annotations: Annotations,
    findings: Findings,
    summary: Mapping,
    ann_file: Path,
    key: str,
    say: Callable[[str], None] = print,
) -> None:
    """Write ``index.html``, ``data.js`` and ``pictures/``.

    A page of an earlier call stays whole until ``data.js`` is replaced: its pictures are not
    touched before, since a picture is named after what it shows.

    Args:
        folder: where to.
        annotations: the annotations.
        findings: what was found.
        summary: what the page says about the audit.
        ann_file: the audited file.
        key: of the audit; the browser keeps the decisions under it.
        say: receives a line if entries are left out, or a picture cannot be made.
    """
    superfluous = {each["row"] for each in findings.superfluous}
    lists = dict(
        box=[each for each in findings.boxes if each["row"] not in superfluous],
        missing=findings.missing,
        superfluous=findings.superfluous,
    )
    left_out = {}
    for name, entries in lists.items():
        if len(entries) > MOST_SHOWN:
            say(f"the page shows the first {MOST_SHOWN} of {len(entries)} entries of {name}")
            left_out[name] = len(entries) - MOST_SHOWN
            lists[name] = entries[:MOST_SHOWN]
    cuts = _Pictures(folder / "pictures", annotations)
    data = dict(
        key=key,
        file=ann_file.name,
        path=shlex.quote(str(ann_file)),
        summary=dict(summary, left_out=left_out),
        lists={
            kind: [_entry(kind, each, annotations, cuts) for each in entries]
            for kind, entries in lists.items()
        },
    )
    cuts.write(say)
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True)
    write_text(folder / "data.js", f"window.AUDIT = {text};\n")
    template = files(__package__).joinpath("index.html").read_text(encoding="utf-8")
    write_text(folder / "index.html", template)  # the rest is there
    cuts.remove_unused(say)


def _entry(kind: str, each: Mapping, annotations: Annotations, cuts: _Pictures) -> dict:
    shown = [each["bbox"]]
    entry = dict(
        image=each["image_id"],
        file=each["file_name"],
        name=each["category"],
        bbox=each["bbox"],
    )
    if kind == "missing":
        entry.update(
            key=f"missing:{each['image_id']}:{','.join(f'{x:g}' for x in each['bbox'])}",
            value=each["rank"],
            score=each["score"],
            certainty=each["certainty"],
            category=each["category_id"],
        )
    else:
        shown.append(each["proposal"])
        entry.update(
            # With the proposal: a decision is about it, and another audit may propose another.
            key=f"{kind}:{each['row']}:{','.join(f'{x:g}' for x in each['proposal'])}",
            row=each["row"],
            id=each["id"],
            value=each["probability"] if kind == "box" else each["doubt"],
            proposal=each["proposal"],
            evidence=round(min(each["evidence"], 1e6), 2),
            ratio=round(min(each["log_ratio"], 1e6), 2),
            iou=each["iou"],
            support=each["support"],
            sides=[
                [
                    side["shift_px"],
                    side["spread_px"],
                    side["z"],
                    side["evidence"],
                    int(side["marked"]),
                ]
                for side in (each["sides"][name] for name in SIDES)
            ],
        )
    entry["cut"] = cuts.add(each["image_id"], shown)
    entry["near"] = cuts.near(each["image_id"], entry["cut"], each.get("row"))
    return entry


class _Pictures:
    """Cut-outs of the images, written image by image.

    Args:
        folder: of the pictures.
        annotations: the annotations.
    """

    def __init__(self, folder: Path, annotations: Annotations) -> None:
        self.folder = folder
        self.images = {each.image.id: each.image for each in annotations.images}
        self.annotated = {each.image.id: each for each in annotations.images}
        self.wanted: dict[int | float | str, dict[str, tuple[int, int, int, int]]] = {}

    def add(self, image_id, boxes: Sequence[Sequence[float]]) -> list:
        """Plan a picture around boxes (x, y, w, h); returns [file, x, y, w, h] of the cut-out."""
        corners = np.array([[x, y, x + w, y + h] for x, y, w, h in boxes])
        low, high = corners[:, :2].min(0), corners[:, 2:].max(0)
        margin = max(AROUND * float((high - low).max()), LEAST_AROUND)
        size = self.images[image_id].size
        x1, y1 = np.maximum(np.floor(low - margin), 0).astype(int).tolist()
        x2, y2 = np.minimum(np.ceil(high + margin), size).astype(int).tolist()
        x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
        shown = repr((image_id, x1, y1, x2, y2))
        name = hashlib.sha256(shown.encode()).hexdigest()[:16] + ".jpg"
        self.wanted.setdefault(image_id, {})[name] = (x1, y1, x2, y2)
        return [name, x1, y1, x2 - x1, y2 - y1]

    def near(self, image_id, cut: Sequence, row: int | None) -> list[list[float]]:
        """The other annotations (x, y, w, h) that a cut-out shows a part of."""
        _, x, y, w, h = cut
        here = self.annotated[image_id]
        low, high = here.boxes[:, :2], here.boxes[:, 2:]
        seen = (high > (x, y)).all(1) & (low < (x + w, y + h)).all(1) & (here.rows != row)
        return np.round(np.concatenate([low, high - low], 1)[seen], 1).tolist()

    def write(self, say: Callable[[str], None]) -> None:
        """Write all planned pictures. They are made again by every call, so they need no fsync."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for image_id, cuts in self.wanted.items():
            path = self.images[image_id].path
            # The pipeline's way of loading: three channels, turned as the camera says.
            image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
            if image is None:
                say(f"{path} has no picture on the page: it cannot be read")
                continue
            for name, (x1, y1, x2, y2) in cuts.items():
                part = image[y1:y2, x1:x2]
                factor = LONGEST / max(part.shape[:2])
                if factor < 1:
                    size = [max(1, math.ceil(factor * x)) for x in part.shape[1::-1]]
                    part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
                _, code = cv2.imencode(".jpg", part, JPEG)
                with open_atomic(self.folder / name, sync=False) as file:
                    file.write(code.tobytes())

    def remove_unused(self, say: Callable[[str], None]) -> None:
        """Remove pictures of earlier calls; what has another name is somebody else's, and stays."""
        used = {name for cuts in self.wanted.values() for name in cuts}
        for path in self.folder.iterdir():
            if OWN_NAMES.fullmatch(path.name) and path.name not in used:
                try:
                    path.unlink()
                except OSError as error:
                    say(f"{path} is not used any more and cannot be removed: {error}")
