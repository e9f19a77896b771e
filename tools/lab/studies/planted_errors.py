"""Annotations with errors of known kinds, and how well a score finds these."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from ebm_mmdet.box_iou import box_iou

__all__ = ["KINDS", "auroc", "average_precision", "plant", "ranking"]

KINDS = ("shift", "scale", "side", "merged")
"""Beside ``jitter``, errors in centre and size at once, of which those below IoU 0.8 count."""
HONEST = (0.015, 0.02)
"""Standard deviations of an honest annotator: centre and size, in units of the box."""
JITTER = (0.08, 0.12)
SIDE = 0.10
"""Part of the box's size by which one side is off."""


def plant(
    content: Mapping, kinds: Sequence[str], share: float, seed: int
) -> tuple[dict, dict[int, str], dict[int, list[float]]]:
    """Move all boxes as an honest annotator does, and some of them wrongly.

    - ``jitter``: centre and log size by normal numbers of 8 % and 12 %, where this leaves an IoU
      below 0.8; the others count as neither good nor bad.
    - ``shift``: the centre by 15 to 30 % of the size, in a random direction.
    - ``scale``: width and height by one factor, 1.25 to 1.6 or its inverse.
    - ``side``: one side by 10 % of the size, in or out.
    - ``merged``: the box of an object and its nearest neighbour of the same class, within one size;
      the neighbour has no annotation.

    Args:
        content: annotation file with true boxes.
        kinds: kinds of errors, equally often.
        share: of the annotations that get an error.
        seed: of everything.

    Returns:
        A new annotation file; the kind of error by row, ``'unclear'`` for a small jitter; the true
        box ``[x1, y1, x2, y2]`` by row. Rows of crowds have neither.
    """
    rng = np.random.default_rng(seed)
    content = copy.deepcopy(dict(content))
    rows = content["annotations"]
    usable = [
        i for i, row in enumerate(rows) if not row.get("iscrowd") and min(row["bbox"][2:]) > 0
    ]
    true = {i: _corners(rows[i]["bbox"]) for i in usable}
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    chosen = rng.permutation(usable)[: round(share * len(usable))]
    planted: dict[int, str] = {}
    dropped: set[int] = set()
    boxes = {i: _jitter(true[i], HONEST, rng) for i in usable}
    for number, i in enumerate(int(i) for i in chosen):
        kind = kinds[number % len(kinds)]
        if i in dropped:
            continue
        if kind == "merged":
            other = _neighbour(i, rows, true, {*planted, *dropped})
            if other is None:
                continue
            pair = np.stack([boxes[i], boxes[other]])
            boxes[i] = np.concatenate([pair[:, :2].min(0), pair[:, 2:].max(0)])
            dropped.add(other)
            planted.pop(other, None)
        elif kind == "jitter":
            boxes[i] = _jitter(true[i], JITTER, rng)
        else:
            boxes[i] = _wrong(boxes[i], kind, rng)
        planted[i] = kind
    for i in usable:
        boxes[i] = np.round(_inside(boxes[i], sizes[rows[i]["image_id"]]), 2)
        if planted.get(i) == "jitter" and box_iou(boxes[i], true[i]) >= 0.8:
            planted[i] = "unclear"
        x1, y1, x2, y2 = boxes[i].tolist()
        rows[i]["bbox"] = [round(x, 2) for x in (x1, y1, x2 - x1, y2 - y1)]
        rows[i]["area"] = round((x2 - x1) * (y2 - y1), 2)
        rows[i].pop("segmentation", None)
    kept = [i for i in range(len(rows)) if i not in dropped]
    content["annotations"] = [rows[i] for i in kept]
    new = {old: position for position, old in enumerate(kept)}
    return (
        content,
        {new[i]: kind for i, kind in planted.items() if i in new},
        {new[i]: true[i].tolist() for i in usable if i in new},
    )


def _corners(box: Sequence[float]) -> np.ndarray:
    x, y, w, h = map(float, box)
    return np.array([x, y, x + w, y + h])


def _jitter(box: np.ndarray, std: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    size = box[2:] - box[:2]
    centre = box[:2] + size / 2 + size * std[0] * rng.standard_normal(2)
    size = size * np.exp(std[1] * rng.standard_normal(2))
    return np.concatenate([centre - size / 2, centre + size / 2])


def _wrong(box: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    box, size = box.copy(), box[2:] - box[:2]
    if kind == "shift":
        angle = rng.uniform(0, 2 * np.pi)
        box += np.tile(rng.uniform(0.15, 0.30) * size * [np.cos(angle), np.sin(angle)], 2)
    elif kind == "scale":
        factor = rng.uniform(1.25, 1.6) ** rng.choice([-1, 1])
        box += 0.5 * (factor - 1) * np.concatenate([-size, size])
    else:
        side = rng.integers(4)
        box[side] += rng.choice([-1, 1]) * SIDE * size[side % 2]
    return box


def _neighbour(i: int, rows, true: Mapping[int, np.ndarray], taken: set[int]) -> int | None:
    """The nearest object of the same image and class, if it is nearer than one size of the box."""
    best, least = None, np.inf
    size = true[i][2:] - true[i][:2]
    for j, box in true.items():
        same = all(rows[i][key] == rows[j][key] for key in ("image_id", "category_id"))
        if j == i or j in taken or not same:
            continue
        gap = np.maximum(np.maximum(true[i][:2] - box[2:], box[:2] - true[i][2:]), 0) / size
        distance = float(gap.max())
        if distance < min(least, 1.0):
            best, least = j, distance
    return best


def _inside(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    limit = np.array([*size, *size], float)
    box = np.clip(box, 0, limit)
    box[2:] = np.maximum(box[2:], np.minimum(box[:2] + 1, limit[2:]))
    return box


def auroc(score: np.ndarray, bad: np.ndarray) -> float:
    """Probability that a bad one has a larger score than a good one; ties count half."""
    positives, negatives = int(bad.sum()), int((~bad).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(score)
    return float((ranks[bad].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(score: np.ndarray, bad: np.ndarray) -> float:
    """Area under precision over recall, without interpolation; equal scores are taken together."""
    if not bad.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(bad[order])
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    recall, precision = hits[last] / hits[-1], hits[last] / (last + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def ranking(score: np.ndarray, kind: Sequence[str]) -> dict[str, tuple[float, float]]:
    """AUROC and average precision of each kind of error against the good ones, and of all."""
    kind, score = np.asarray(kind), np.asarray(score, float)
    good = kind == ""
    table = {}
    for name in ["all", *sorted(set(kind) - {"", "unclear"})]:
        bad = (kind == name) if name != "all" else ~good & (kind != "unclear")
        some = good | bad
        table[name] = auroc(score[some], bad[some]), average_precision(score[some], bad[some])
    return table
