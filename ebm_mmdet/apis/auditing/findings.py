"""From the scores of all images to one list for each question, worst first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...box_iou import box_iou
from .annotations import AnnotatedImage, Annotations
from .calibration import Mixture, evidence_against, fit_mixture, side_factor
from .presence import certainty, relative_spread
from .scoring import INFINITE, joined_surprise

__all__ = ["SIDES", "Findings", "find"]

SIDES = ("left", "top", "right", "bottom")
MARKED = 3.0
"""Spreads by which a side is off to be marked; and it must explain a tenth of the log-ratio."""
CONFIRMED = 0.5
"""Support from which an annotation counts as confirmed."""
LEAST_DOUBT = 0.3


@dataclass(frozen=True)
class Findings:
    """What an audit has found. Boxes are ``[x, y, width, height]`` in pixels of the image."""

    boxes: list[dict]
    """Every audited annotation, most probably badly located first: ``row``, ``id``, ``image_id``,
    ``file_name``, ``category``, ``bbox``, ``proposal``, ``log_ratio``, ``surprise`` (None if it was
    not asked for), ``evidence``, ``probability``, ``sides`` (of each: ``shift_px``, ``spread_px``,
    ``z``, ``evidence``, ``marked``), ``iou``, ``support``, ``doubt``."""
    missing: list[dict]
    """Objects without annotation: ``image_id``, ``file_name``, ``category``, ``category_id``,
    ``bbox``, ``score``, ``certainty``, ``rank``."""
    superfluous: list[dict]
    """The entries of ``boxes`` where there may be no object, largest ``doubt`` first."""
    mixture: Mixture
    side_factor: float
    """Factor between the spread of f and that of these annotations."""


def find(annotations: Annotations, results: Mapping[int, dict]) -> Findings:
    """Calibrate on all annotations that were scored, and rank.

    Args:
        annotations: the annotations.
        results: of :func:`~.scoring.score_image`, by position of the image.
    """
    order = sorted(results)
    scored = [(annotations.images[i], results[i]) for i in order]
    ratio = np.concatenate([np.asarray(each["log_ratio"], float) for _, each in scored])
    ratio[ratio >= INFINITE] = np.inf
    shift, spread, boxes = (
        np.concatenate([np.asarray(part, float).reshape(-1, 4) for part in parts])
        for parts in (
            [each["shift"] for _, each in scored],
            [each["spread"] for _, each in scored],
            [here.boxes for here, _ in scored],
        )
    )
    support = np.concatenate([np.asarray(each["support"], float) for _, each in scored])
    confirmed = support >= CONFIRMED
    some = confirmed if confirmed.sum() >= 20 else np.ones_like(confirmed)
    # Where there is no object there is no mode either: such boxes do not tell what is usual.
    against = evidence_against(ratio, joined_surprise([each for _, each in scored]), some)
    mixture = fit_mixture(against[some])
    factor = side_factor(shift[some], spread[some])
    usual = float(np.median(relative_spread(spread[some], boxes[some]))) if some.any() else 0.05
    probability = mixture.probability(against)
    found, missing, at, names = [], [], 0, annotations.category_names
    for here, each in scored:
        stop = at + len(here.rows)
        proposals = np.asarray(each["proposal"], float).reshape(-1, 4)
        sharp = certainty(spread[at:stop], proposals, usual)
        iou = box_iou(here.boxes, proposals)
        for k, row in enumerate(here.rows.tolist()):
            source = annotations.content["annotations"][row]
            found.append(
                dict(
                    row=row,
                    id=source.get("id"),
                    image_id=here.image.id,
                    file_name=here.image.name,
                    category=names[source["category_id"]],
                    bbox=list(source["bbox"]),
                    proposal=_xywh(proposals[k]),
                    log_ratio=each["log_ratio"][k],
                    surprise=None if each["surprise"] is None else each["surprise"][k],
                    evidence=round(float(min(against[at + k], INFINITE)), 4),
                    probability=round(float(probability[at + k]), 4),
                    sides=_sides(each, k, factor),
                    iou=round(float(iou[k]), 4),
                    support=each["support"][k],
                    doubt=round(float((1 - support[at + k]) * (1 - sharp[k])), 4),
                )
            )
        missing += _missing(here, each["missing"], usual, annotations.category_ids, names)
        at = stop
    found.sort(key=lambda each: (-each["probability"], -each["evidence"]))
    missing.sort(key=lambda each: -each["rank"])
    doubtful = [
        each for each in found if each["support"] < CONFIRMED and each["doubt"] >= LEAST_DOUBT
    ]
    doubtful.sort(key=lambda each: -each["doubt"])
    return Findings(found, missing, doubtful, mixture, factor)


def _sides(each: Mapping, k: int, factor: float) -> dict:
    sides = {}
    for j, name in enumerate(SIDES):
        shift, spread = each["shift"][k][j], factor * each["spread"][k][j]
        z = shift / max(spread, 1e-6)
        evidence = each["evidence"][k][j]
        marked = abs(z) >= MARKED and evidence >= 0.1 * each["log_ratio"][k]
        sides[name] = dict(
            shift_px=round(shift, 2),
            spread_px=round(spread, 3),
            z=round(float(np.clip(z, -999, 999)), 2),
            evidence=round(evidence, 2),
            marked=bool(marked),
        )
    return sides


def _missing(
    here: AnnotatedImage, each: Mapping, usual: float, ids: Sequence, names: Mapping
) -> list[dict]:
    boxes = np.asarray(each["box"], float).reshape(-1, 4)
    sharp = certainty(np.asarray(each["spread"], float).reshape(-1, 4), boxes, usual)
    rows = []
    for k, box in enumerate(boxes):
        label = each["label"][k]
        if label >= len(ids) or ids[label] is None:
            continue
        rows.append(
            dict(
                image_id=here.image.id,
                file_name=here.image.name,
                category=names[ids[label]],
                category_id=ids[label],
                bbox=_xywh(box),
                score=each["score"][k],
                certainty=round(float(sharp[k]), 4),
                rank=round(float(each["score"][k] * sharp[k]), 4),
            )
        )
    return rows


def _xywh(box: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = (float(x) for x in box)
    return [round(x, 2) for x in (x1, y1, x2 - x1, y2 - y1)]
