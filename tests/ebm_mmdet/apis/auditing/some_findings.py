"""Annotations of generated images, and findings about them as an audit would have them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from ebm_mmdet.apis.auditing.annotations import Annotations, read_annotations
from ebm_mmdet.apis.auditing.findings import Findings, find
from ebm_mmdet.apis.auditing.page import write_page

CLASSES = ("ape", "bat")


def write_data(folder: Path, images: int = 6, boxes: int = 5, ids=lambda i: i) -> Path:
    """An annotation file and its images; returns the file."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    listed, annotations = [], []
    for i in range(1, images + 1):
        picture = np.full((120, 160, 3), 40, np.uint8)
        for _ in range(boxes):
            x, y = rng.integers(5, 110), rng.integers(5, 70)
            w, h = rng.integers(20, 45, 2)
            colour = rng.integers(90, 255, 3).tolist()
            cv2.rectangle(picture, (int(x), int(y)), (int(x + w), int(y + h)), colour, -1)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=ids(i),
                    category_id=int(rng.integers(1, 3)),
                    bbox=[int(v) for v in (x, y, w, h)],
                    iscrowd=0,
                )
            )
        name = f"im {i}.png"
        cv2.imwrite(str(folder / name), picture)
        listed.append(dict(id=ids(i), file_name=name, width=160, height=120))
    categories = [dict(id=k, name=name) for k, name in enumerate(CLASSES, 1)]
    path = folder / "boxes.json"
    path.write_text(json.dumps(dict(images=listed, annotations=annotations, categories=categories)))
    return path


def some_results(annotations: Annotations, bad: int = 7) -> dict[int, dict]:
    """Scores in which every ``bad``-th annotation is off on its left by a tenth and more."""
    rng, results, count = np.random.default_rng(1), {}, 0
    for index, each in enumerate(annotations.images):
        n = len(each.rows)
        size = np.tile(each.boxes[:, 2:] - each.boxes[:, :2], (1, 2))
        shift = 0.01 * size * rng.standard_normal((n, 4))
        for k in range(n):
            count += 1
            if count % bad == 0:
                shift[k, 0] = -0.25 * size[k, 0]
        spread = 0.01 * size
        evidence = 0.5 * (shift / spread) ** 2
        results[index] = dict(
            image=index,
            proposal=(each.boxes + shift).round(3).tolist(),
            log_ratio=evidence.sum(1).round(4).tolist(),
            surprise=(evidence.sum(1) - 9).round(4).tolist(),
            shift=shift.round(3).tolist(),
            spread=spread.round(4).tolist(),
            evidence=evidence.round(3).tolist(),
            support=[0.9] * (n - 1) + [0.05 if index == 0 else 0.9] if n else [],
            detection=[None] * n,
            score=[0.9] * n,
            missing=dict(box=[[2, 2, 18, 18]], score=[0.8], label=[1], spread=[[0.2] * 4]),
        )
    first = results[0]
    first["spread"][-1] = (np.array(first["spread"][-1]) * 20).tolist()  # flat: about nothing
    return results


def some_findings(folder: Path, **more) -> tuple[Path, Annotations, Findings]:
    """The annotation file, read, and findings about it."""
    path = write_data(folder, **more)
    annotations = read_annotations(path, folder, CLASSES)
    return path, annotations, find(annotations, some_results(annotations))


def write_some_page(folder: Path) -> Path:
    """A page about findings; returns its folder."""
    path, annotations, findings = some_findings(folder / "my data")
    out = folder / "an audit"
    summary = dict(
        audited=len(findings.boxes), share_bad=0.1, folds=5, complete=True, threshold=0.5
    )
    write_page(out, annotations, findings, summary, path, "a key")
    return out
