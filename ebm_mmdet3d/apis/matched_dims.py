"""How far the seven numbers of 3D detections are from those of the objects that they match."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmdet3d.structures import Det3DDataSample
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from ebm_mmdet.apis.unfinished_calibration import KeptMatches

from ..evaluation import box_iou_3d
from ..models.detectors.dim_intervals import dim_spread, wrapped

__all__ = ["MatchedDims", "match_boxes_3d", "matched_dims"]


class MatchedDims(NamedTuple):
    """Detections that match an object, of all frames; metres and radians."""

    residual: Tensor
    """(n, 7) truth minus detection, of x, y, z, l, w, h, yaw; yaw in half a period around 0."""
    spread: Tensor
    """(n, 7), see :func:`~ebm_mmdet3d.models.detectors.dim_intervals.dim_spread`."""
    labels: Tensor
    """(n,) int64."""
    image: Tensor
    """(n,) int64, position of the frame."""
    kind: str
    """Kind of ``spread``."""


@torch.no_grad()
def matched_dims(
    model: nn.Module,
    dataset: Sequence,
    spread: str | None = None,
    score_thr: float = 0.3,
    iou_thr: float = 0.5,
    period: float = 2 * math.pi,
    say: Callable[[str], None] = lambda line: None,
    folder: Path | None = None,
) -> MatchedDims:
    """Run a detector on a data set, and keep what matches an object.

    Args:
        model: a detector in eval mode.
        dataset: an mmdet3d data set whose items have a data sample with the truth, in
            ``gt_instances_3d`` or, as mmdet3d's test pipelines have it, in ``eval_ann_info``.
        spread: its kind; None: ``'std'`` if the first detections have one, else ``'metres'``.
        score_thr: lowest score of a detection.
        iou_thr: smallest 3D IoU with its object.
        period: of yaw, 2π, or π for objects whose front does not matter.
        say: gets a line now and then.
        folder: keeps what is known, so that the same call goes on after an interruption. It has to
            be that of a call with the same arguments.

    Raises:
        ValueError: a frame has no annotations, or detections lack what ``spread`` needs.
    """
    with KeptMatches(folder, spread) as kept:
        for position in range(kept.images, len(dataset)):
            item = dataset[position]
            truth, labels = _truth(item["data_samples"], position)
            (sample,) = model.test_step(pseudo_collate([item]))
            found = sample.pred_instances_3d.to("cpu")
            if kept.spread is None and len(found):
                kept.spread = "std" if "box_std" in found else "metres"
            boxes = found.bboxes_3d.tensor[:, :7].float().cpu()
            matched, objects = match_boxes_3d(
                boxes, found.scores_3d, found.labels_3d, truth, labels, score_thr, iou_thr
            )
            row = ()
            if len(matched):
                residual = truth[objects] - boxes[matched]
                residual[:, 6] = wrapped(residual[:, 6], period)
                row = (
                    residual,
                    dim_spread(found, kept.spread).cpu()[matched],
                    found.labels_3d.long()[matched],
                    torch.full((len(matched),), position),
                )
            kept.add(*row)
            if (position + 1) % 100 == 0:
                say(f"{position + 1} of {len(dataset)} frames")
    none = torch.zeros(0, dtype=torch.long)
    columns = kept.columns(torch.zeros(0, 7), torch.zeros(0, 7), none, none)
    return MatchedDims(*columns, kind=kept.spread or "metres")


def match_boxes_3d(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    truth: Tensor,
    truth_labels: Tensor,
    score_thr: float = 0.3,
    iou_thr: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Match the detections of one frame, one to one.

    By descending score, each to the object of its class that it overlaps most and that is free, as
    :func:`ebm_mmdet.evaluation.match_detections` does in images.

    Args:
        boxes: (n, 7) detections, z at the bottom; one with a number that is not finite matches
            nothing.
        scores: (n,) classification scores.
        labels: (n,) int64.
        truth: (m, 7) objects.
        truth_labels: (m,) int64; negative for objects that do not count.
        score_thr: detections below this score are left out.
        iou_thr: smallest 3D IoU of a match.

    Returns:
        Indices of the matched detections, (k,) int64 by descending score, and of their objects.
    """
    usable = (scores >= score_thr) & boxes.isfinite().all(1)
    overlaps = np.zeros((len(boxes), len(truth)))
    rows = usable.numpy()
    if rows.any() and len(truth):
        overlaps[rows] = box_iou_3d(boxes[usable].numpy(), truth.numpy())
    overlaps[labels.numpy()[:, None] != truth_labels.numpy()[None]] = 0
    matched, objects = [], []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if rows[i] and len(truth) and overlaps[i].max() >= max(iou_thr, 1e-9):
            best = int(overlaps[i].argmax())
            matched.append(i)
            objects.append(best)
            overlaps[:, best] = 0
    return torch.tensor(matched, dtype=torch.long), torch.tensor(objects, dtype=torch.long)


def _truth(sample: Det3DDataSample, position: int) -> tuple[Tensor, Tensor]:
    """Boxes (m, 7) float32 and labels (m,) of the objects of a frame."""
    stored = sample.get("gt_instances_3d")
    if stored is None or "bboxes_3d" not in stored:
        stored = sample.get("eval_ann_info")
    known = stored if isinstance(stored, Mapping) else dict(stored.items()) if stored else {}
    boxes = known.get("bboxes_3d", known.get("gt_bboxes_3d"))
    labels = known.get("labels_3d", known.get("gt_labels_3d"))
    if boxes is None or labels is None:
        raise ValueError(
            f"frame {position} of the data set has no annotations: its data sample has neither "
            "gt_instances_3d.bboxes_3d nor eval_ann_info; set test_mode=True and "
            "load_eval_anns=True of the data set, or add gt_bboxes_3d and gt_labels_3d to the keys "
            "of Pack3DDetInputs"
        )
    return boxes.tensor[:, :7].float().cpu(), torch.as_tensor(labels).long().cpu()
