"""Pictures of images with their boxes before and after refinement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ...files import write_bytes
from ...models.detectors import EBMDetector
from ...visualization.refined_boxes import draw_refined_boxes
from .detections import Method, detect, refine
from .image_set import ImageSet

__all__ = ["write_pictures"]

DRAWN_SCORE = 0.3
MOST_NAMED = 30
"""Boxes in a picture, beyond which their names would hide the image."""


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
