"""How far the detector's boxes lie from the objects of the training images, before any training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...files import read_json, write_json
from ..residual_spread import FEWEST_BOXES
from .clock import Clock
from .data import FitData
from .kind import Items, Kind

__all__ = ["measure_residuals"]

ENOUGH_BOXES, MOST_IMAGES = 500, 100
"""The spread of 500 residuals is known to some 3 %."""
SCORES = (0.3, 0.05)
"""The lower one if too few boxes have the higher one, as with a detector that is unsure of all."""


def measure_residuals(
    kind: Kind,
    model: Any,
    data: FitData,
    path: Path,
    seconds: float,
    clock: Clock,
    seed: int,
    progress: Callable[[float], None] = lambda share: None,
) -> Tensor:
    """Residuals of boxes that match an object, on images to tune on and then to train on.

    It ends with 500 boxes, 100 images, or the time, but not before one image.

    Args:
        kind: of the boxes.
        model: the detector.
        data: the images.
        path: file that keeps the result; it is read if it is there.
        seconds: time for it.
        clock: the clock of the fit.
        seed: of the choice of training images.
        progress: receives the share that is done.

    Returns:
        (n, D) truth minus detection in encoded coordinates, finite; see ``kind.residuals``.
    """
    stored = read_json(path)
    if stored is not None:
        return _as_tensor(stored["residuals"], kind.dim)
    until = clock.used() + seconds
    classes = model.energy_head.num_classes
    found = {score: torch.zeros(0, kind.dim) for score in SCORES}
    for done, (items, position) in enumerate(_items(data, seed)):
        if done and (clock.used() > until or len(found[SCORES[0]]) >= ENOUGH_BOXES):
            break
        image = kind.detect(model, items[position], data.max_dets)
        for score in SCORES:
            more = kind.residuals(items, position, image, classes, score)
            found[score] = torch.cat([found[score], more])
        progress(max(len(found[SCORES[0]]) / ENOUGH_BOXES, (done + 1) / MOST_IMAGES))
    usual, more = (found[score] for score in SCORES)
    residuals = usual if len(usual) >= FEWEST_BOXES else more
    rows = [[round(x, 6) for x in row] for row in residuals.tolist()]
    write_json(path, dict(residuals=rows))
    clock.save()
    return _as_tensor(rows, kind.dim)  # what an interrupted call reads again


def _as_tensor(rows: list[list[float]], dim: int) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, dim)


def _items(data: FitData, seed: int) -> Iterator[tuple[Items, int]]:
    """At most 100 images in random order: those to tune on first, then training images."""
    generator = torch.Generator().manual_seed(seed)
    left = MOST_IMAGES
    for items in (data.tune, data.rest):
        order = torch.randperm(len(items), generator=generator)[:left].tolist()
        left -= len(order)
        yield from ((items, position) for position in order)
