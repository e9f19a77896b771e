"""What a fit leaves: the model, and what its page and its verdict say about how it was made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from ...engine import write_checkpoint
from ..config_text import Noted
from .clock import Clock
from .data import FitData
from .judging import Judging
from .kind import Kind
from .training import HeadTraining
from .tuning import Tuned
from .verdict import Circumstances

__all__ = ["circumstances", "facts", "save_model", "tuned_settings"]

SEEN = 50
"""Images that were judged, whose objects are measured in cells of the map."""


def save_model(model: nn.Module, meta: Mapping, path: Path) -> tuple[str, ...]:
    """Write a checkpoint of the model, on the CPU, with names and colours of its classes.

    Args:
        model: detector and head.
        meta: ``metainfo`` of the data set.
        path: the file; it is replaced.

    Returns:
        The names.
    """
    state = {key: value.cpu() for key, value in model.state_dict().items()}
    known = {key: meta[key] for key in ("classes", "palette") if meta.get(key)}
    write_checkpoint(path, dict(state_dict=state, meta=dict(dataset_meta=known)))
    return known.get("classes", ())


def tuned_settings(tuned: Tuned, noun: str) -> dict:
    """Settings of the wrapper that were tuned on images (``noun``), with comments for a config."""
    where = f"tuned on {tuned.images} training {noun}s that were kept out of the training"
    return dict(
        refiner=Noted(tuned.refiner, where),
        min_score=Noted(tuned.min_score, "lower boxes stay as they are; tuned likewise"),
    )


def facts(
    kind: Kind,
    cfg: Config,
    data: FitData,
    model: nn.Module,
    clock: Clock,
    training: HeadTraining,
    tuned: Tuned,
    judging: Judging,
) -> list[str]:
    """Lines for the page: from what, in which time and on which machine the result was made."""
    least = "all boxes are refined"
    if tuned.min_score:
        least = f"boxes with a score of at least {tuned.min_score} are refined"
    noun = kind.noun
    complete = "" if tuned.complete else ", for lack of time not all that there are"
    return [
        *data.notes,
        f"{data.images} {noun}s with {data.boxes} boxes to train on, "
        f"{training.iteration} iterations in {training.seconds / 60:.1f} min",
        f"{tuned.images} training {noun}s to tune on, kept out of the training: {tuned.tried} "
        f"settings{complete}; AP {100 * tuned.ap_before:.2f} before, "
        f"{100 * tuned.ap_after:.2f} after",
        f"{len(judging.results)} of {len(data.judge)} {noun}s to judge on",
        kind.reads(model, cfg),
        f"refiner: {tuned.refiner}; {least}",
        f"{clock.used() / 60:.1f} min in all, {torch.get_num_threads()} CPU threads, "
        f"{next(model.parameters()).device}",
    ]


def circumstances(
    kind: Kind, cfg: Config, data: FitData, judging: Judging, iterations: int, tuned: Tuned
) -> Circumstances:
    """What the verdict needs besides the table."""
    sides: list[float] = []
    for each in judging.results[:SEEN]:
        sides += kind.object_cells(data.judge, each, cfg)
    cells = float(np.median(sides)) if sides else math.inf
    return Circumstances(
        data.boxes,
        data.images,
        len(judging.results),
        iterations,
        cells,
        tuning_gain=100 * (tuned.ap_after - tuned.ap_before),
        noun=kind.noun,
        headings=kind.headings,
        high=kind.high,
        precise_iou=kind.precise_iou,
    )
