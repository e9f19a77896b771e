"""The page with the table and the pictures of a fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ...evaluation.average_precision import METRICS
from ...files import markdown_table, write_bytes, write_text
from ...models.detectors import EBMDetector
from ...visualization.refined_boxes import draw_refined_boxes
from .detections import Method, detect, refine
from .image_set import ImageSet
from .verdict import Verdict

__all__ = ["table", "write_page", "write_pictures"]

DRAWN_SCORE = 0.3
MOST_NAMED = 30
"""Boxes in a picture, beyond which their names would hide the image."""
NAMES = {"IoU_TP": "mean IoU"}


def table(rows: Sequence[dict]) -> str:
    """The rows as a Markdown table."""
    header = ["", *(NAMES.get(name, name) for name in METRICS), "ms per image"]
    lines = []
    for row in rows:
        cells = [_cell(row, metric) for metric in METRICS]
        lines.append([row["method"], *cells, f"{row['ms_per_image']:.1f}"])
    return markdown_table(header, lines)


def _cell(row: dict, metric: str) -> str:
    if row[metric] is None:
        return "-"
    change, error = row[f"change_{metric}"], row[f"error_{metric}"]
    if change is None:
        return f"{row[metric]:.2f}"
    return f"{row[metric]:.2f} ({change:+.2f}" + (")" if error is None else f" ± {error:.2f})")


def write_page(
    path: Path,
    rows: Sequence[dict],
    found: Verdict,
    facts: Sequence[str],
    files: Sequence[str],
    pictures: Sequence[str],
) -> None:
    """Write ``page.md``: verdict, table, facts, files, pictures."""
    described = (
        "Values in percent; in brackets the change against the detector ± its bootstrap error over"
        f" images ({rows[0]['resamples']} resamples, paired). Mean IoU is that of boxes that match "
        "an object at IoU 0.5. All boxes are clipped to the image. The regression head was trained "
        "on the same objects and features, in the same iterations, on a quarter of the boxes "
        "around them. Times are medians: the detector, and what moves its boxes."
    )
    parts = [f"# {found.sentence}", table(rows), described]
    parts.append("\n".join(f"- {fact}" for fact in facts))
    parts.append("\n".join(f"    {line}" for line in files))
    parts += [f"![boxes before and after]({name})" for name in pictures]
    write_text(path, "\n\n".join(parts) + "\n")


def write_pictures(
    folder: Path,
    model: EBMDetector,
    method: Method,
    images: ImageSet,
    positions: Sequence[int],
    classes: Sequence[str],
    max_dets: int = 100,
) -> list[str]:
    """Draw boxes before and after; returns the names of the files, which begin with the folder's.

    Images that are not files, or cannot be read, are left out.
    """
    names = []
    for position in positions:
        info = images.dataset.get_data_info(images.indices[position])
        source = info.get("img_path")
        picture = cv2.imread(str(source), cv2.IMREAD_COLOR) if source else None
        if picture is None:
            continue
        image = detect(model, images[position], max_dets)
        found, _ = refine(model, method, image)
        before, found = image.sample.pred_instances.cpu(), found.cpu()
        keep = before.scores >= DRAWN_SCORE
        texts = [
            f"{classes[label] if label < len(classes) else label} {score:.2f}"
            for label, score in zip(before.labels[keep].tolist(), before.scores[keep].tolist())
        ]
        drawn = draw_refined_boxes(
            np.ascontiguousarray(picture[..., ::-1]),
            before.bboxes[keep].numpy(),
            found.bboxes[keep].numpy(),
            texts if len(texts) <= MOST_NAMED else [],
        )
        name = f"{folder.name}/{len(names) + 1}.png"
        _, code = cv2.imencode(".png", drawn[..., ::-1])
        write_bytes(folder.parent / name, code.tobytes())
        names.append(name)
    return names
