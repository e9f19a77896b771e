"""One sentence: whether refinement pays, what it costs, and, if it does not pay, why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Circumstances", "Verdict", "verdict"]

SURE = 2.0
"""A gain counts if it is more than this many bootstrap errors."""
LEAST_GAIN = 0.1
"""Points of AP below which a gain is not worth a head."""
FEW_BOXES = 1000
"""Annotations below which a head that does not pay may have had too few: 590 of 72 classes were."""
FEW_ITERATIONS = 500
FEWEST_JUDGED = 10
"""Images below which a bootstrap error means little."""
CELLS = 3.0
"""Side of an object in cells of the finest map, below which its sides share cells."""


@dataclass(frozen=True)
class Circumstances:
    """What the reasons are looked for in."""

    boxes: int
    """Annotated boxes that were trained on."""
    images: int
    judged: int
    """Images that were judged on."""
    iterations: int
    """Of the training."""
    cells: float
    """Median side of an object in cells of the finest map that the head reads."""
    tuning_gain: float = math.inf
    """Points of AP that the best setting gains on the images to tune on."""
    noun: str = "image"
    headings: Mapping[str, str] = field(default_factory=dict)
    """Names of metrics where they differ from those of the table's rows."""
    high: str = "AP90"
    """The metric at a high IoU that is named too."""
    precise_iou: float = 92.0
    """Mean IoU of matched boxes in percent from which a detector is as precise as annotations."""


@dataclass(frozen=True)
class Verdict:
    """The verdict and its sentences."""

    pays: bool
    sentence: str
    reasons: list[str]
    """Why it does not pay; empty if it does."""


def verdict(rows: Sequence[dict], around: Circumstances) -> Verdict:
    """Judge the table of :func:`~ebm_mmdet.apis.fitting.judging.judge_rows`.

    It pays if three things are true of the energy head:

    - its AP is more than two bootstrap errors, and a tenth of a point, above the detector's;
    - the mean IoU of boxes that match an object is higher by more than two errors. That is what
      refinement does, and AP follows from it. AP alone also rises by chance, where a few boxes of
      rare classes pass a threshold;
    - the images to tune on, which are others, have gained too.

    On few images each is seen now and then where nothing has been learned, but not all of them.

    Args:
        rows: detector, constant correction, regression head, energy head.
        around: facts about the data.
    """
    detector, constant, regression, energy = rows
    gain, error = energy["change_AP"], energy["error_AP"]
    cost = max(energy["ms_per_image"] - detector["ms_per_image"], 0.0)
    if gain is None or error is None or around.judged < FEWEST_JUDGED:
        judged = f"{around.judged} judged {around.noun}{'s' * (around.judged != 1)}"
        return Verdict(
            False,
            f"Nothing can be said from {judged}; at least {FEWEST_JUDGED}, with annotations, are "
            "needed.",
            [f"too few {around.noun}s to judge on"],
        )
    ap = around.headings.get("AP", "AP")
    change = (
        f"{ap} {gain:+.2f} ± {error:.2f}{_high(energy, around)}, for {cost:.1f} ms more per "
        f"{around.noun}"
    )
    enough = gain > SURE * error and gain > LEAST_GAIN
    closer, spread = energy["change_IoU_TP"], energy["error_IoU_TP"]
    tighter = None not in (closer, spread) and closer > SURE * spread
    if enough and tighter and around.tuning_gain > 0:
        rival = max(constant, regression, key=lambda row: row["AP"])
        behind = ""
        if rival["AP"] >= energy["AP"]:
            behind = (
                f" The {rival['method']} does as well: {ap} {rival['change_AP']:+.2f} at "
                f"{rival['ms_per_image'] - detector['ms_per_image']:.1f} ms."
            )
        return Verdict(True, f"Refinement pays: {change}.{behind}", [])
    reasons = _reasons(detector, around)
    text = "; ".join(reasons) or "none of the usual reasons is seen; try a longer time"
    if enough and around.tuning_gain <= 0:
        change += (
            f"; but no setting was better than the detector on the {around.noun}s to tune on ({ap} "
            f"{around.tuning_gain:+.2f})"
        )
    elif enough:
        change += "; but the boxes are not closer to the objects that they match (mean IoU "
        change += "unknown)" if None in (closer, spread) else f"{closer:+.2f} ± {spread:.2f})"
    return Verdict(False, f"Refinement does not pay: {change}. Seen: {text}.", reasons)


def _high(row: dict, around: Circumstances) -> str:
    change, error = row[f"change_{around.high}"], row[f"error_{around.high}"]
    if change is None:
        return ""
    return f" ({around.headings.get(around.high, around.high)} {change:+.2f} ± {error or 0:.2f})"


def _reasons(detector: dict, around: Circumstances) -> list[str]:
    reasons = []
    if around.iterations < FEW_ITERATIONS:
        reasons.append(
            "too little training "
            f"({around.iterations} iterations; give more minutes and a new --out-dir)"
        )
    if around.boxes < FEW_BOXES:
        reasons.append(
            f"too few annotations ({around.boxes} boxes in {around.images} {around.noun}s to train "
            "on)"
        )
    if detector["IoU_TP"] is not None and detector["IoU_TP"] >= around.precise_iou:
        reasons.append(
            "the detector is about as precise as annotations are (mean IoU of matched boxes "
            f"{detector['IoU_TP']:.1f} %)"
        )
    if around.cells < CELLS:
        reasons.append(
            f"the features are too coarse (half of the objects are smaller than {around.cells:.1f} "
            "cells; `python -m ebm_mmdet inspect` names finer maps)"
        )
    return reasons
