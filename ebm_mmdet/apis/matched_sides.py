"""How far the sides of detections are from those of the objects that they match."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from ..evaluation import match_detections
from ..models.detectors.side_intervals import relative_spread
from ..models.side_uncertainty import side_lengths
from .fitting.image_set import ImageSet
from .unfinished_calibration import KeptMatches

__all__ = ["MatchedSides", "matched_sides"]

SCORE_THR, IOU_THR = 0.3, 0.5


class MatchedSides(NamedTuple):
    """Detections that match an object, of all images; lengths are shares of the detected box."""

    residual: Tensor
    """(n, 4) truth minus detection, of x1, y1, x2, y2."""
    spread: Tensor
    """(n, 4, 2), see :func:`~ebm_mmdet.models.detectors.side_intervals.relative_spread`."""
    boxes: Tensor
    """(n, 4) in pixels of the file."""
    labels: Tensor
    """(n,) int64."""
    image: Tensor
    """(n,) int64, position of the image."""
    kind: str
    """Kind of ``spread``."""


@torch.no_grad()
def matched_sides(
    model: nn.Module,
    dataset,
    level: float,
    spread: str | None = None,
    score_thr: float = SCORE_THR,
    iou_thr: float = IOU_THR,
    say: Callable[[str], None] = lambda line: None,
    folder: Path | None = None,
) -> MatchedSides:
    """Run a detector on a data set, and keep the sides of what matches an object.

    Args:
        model: a detector in eval mode, with ``dataset_meta``.
        dataset: an mmdet data set whose items come from the test pipeline.
        level: see :func:`~ebm_mmdet.models.detectors.side_intervals.relative_spread`.
        spread: its kind; None: ``'std'`` if the first detections have one, else ``'size'``.
        score_thr: lowest score of a detection.
        iou_thr: smallest IoU with its object.
        say: gets a line now and then.
        folder: keeps what is known, so that the same call goes on after an interruption. It has to
            be that of a call with the same arguments.
    """
    images = ImageSet(_KeepsLast(dataset), range(len(dataset)))
    classes = len(model.dataset_meta["classes"])
    with KeptMatches(folder, spread) as kept:
        for position in range(kept.images, len(images)):
            (sample,) = model.test_step(pseudo_collate([images[position]]))
            found = sample.pred_instances.cpu()
            if kept.spread is None and len(found):
                keys = {"box_cov", "box_std", "side_std"}
                kept.spread = "std" if any(key in found for key in keys) else "size"
            matched, objects = match_detections(
                images.coco([position], classes),
                position,
                found.bboxes,
                found.scores,
                found.labels,
                range(1, classes + 1),
                score_thr,
                iou_thr,
            )
            row = ()
            if len(matched):
                one = found[matched]
                boxes = one.bboxes.float()
                row = (
                    (objects - boxes) / side_lengths(boxes),
                    relative_spread(one, kept.spread, level),
                    boxes,
                    one.labels.long(),
                    torch.full((len(matched),), position),
                )
            kept.add(*row)
            if (position + 1) % 100 == 0:
                say(f"{position + 1} of {len(images)} images")
    none = torch.zeros(0, dtype=torch.long)
    sides, boxes = torch.zeros(0, 4, 2), torch.zeros(0, 4)
    columns = kept.columns(boxes, sides, boxes, none, none)
    return MatchedSides(*columns, kind=kept.spread or "size")


class _KeepsLast:
    """A data set that reads an item once, if it is asked for twice in a row."""

    def __init__(self, dataset) -> None:
        self.dataset, self.last = dataset, (None, None)

    def __getitem__(self, index: int) -> dict:
        if self.last[0] != index:
            self.last = index, self.dataset[index]
        return copy.deepcopy(self.last[1])  # models write into what they are given

    def get_data_info(self, index: int) -> dict:
        return self.dataset.get_data_info(index)
