"""Scores of cleanlab's ObjectLab, which runs in a Python of its own: it is no dependency."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ebm_mmdet.apis.auditing.annotations import Annotations

__all__ = ["badloc_scores"]


def badloc_scores(
    python: str,
    annotations: Annotations,
    found: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    num_classes: int,
) -> list[float]:
    """1 - ``compute_badloc_box_scores`` of each annotation; larger is worse.

    Args:
        python: a Python in which cleanlab is installed.
        annotations: the annotations.
        found: boxes (d, 4) xyxy, scores (d,) and labels (d,) of each image.
        num_classes: of the detector.

    Raises:
        subprocess.CalledProcessError: cleanlab is not there, or fails.
    """
    labels, predictions = [], []
    for each, (boxes, scores, classes) in zip(annotations.images, found):
        rows = np.concatenate([boxes, scores[:, None]], 1)
        predictions.append([rows[classes == k].tolist() for k in range(num_classes)])
        labels.append(
            dict(
                bboxes=each.boxes.tolist(),
                labels=each.labels.tolist(),
                image_name=each.image.name,
            )
        )
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "in.json"), Path(folder, "out.json")
        given.write_text(json.dumps(dict(labels=labels, predictions=predictions)))
        subprocess.run([python, "-c", _SCRIPT, str(given), str(made)], check=True)
        return json.loads(made.read_text())


_SCRIPT = """
import json, sys
import numpy as np
from cleanlab.object_detection.rank import compute_badloc_box_scores
given = json.load(open(sys.argv[1]))
# Its arrays may not be ragged: an image without boxes of a class has (0, 5).
predictions = []
for image in given["predictions"]:
    arrays = np.empty(len(image), dtype=object)
    for k, rows in enumerate(image):
        arrays[k] = np.array(rows, float).reshape(-1, 5)
    predictions.append(arrays)
labels = [
    dict(
        bboxes=np.array(image["bboxes"], float).reshape(-1, 4),
        labels=np.array(image["labels"], int),
        image_name=image["image_name"],
    )
    for image in given["labels"]
]
scores = compute_badloc_box_scores(labels=labels, predictions=predictions)
flat = [1 - float(x) for image in scores for x in image]
json.dump([x if x == x else 0.0 for x in flat], open(sys.argv[2], "w"))
"""
