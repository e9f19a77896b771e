"""Non-maximum suppression in fixed shapes: a loop that a graph can hold, of a known length.

What mmdet and mmcv return depends on the values, in its shape too. Here every step takes the best
box that is left, and strikes out what overlaps with it; the number of steps is given.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Candidates", "best", "by_energy", "by_scores", "greedy_survivors", "overlapping"]

_NONE = -1.0
"""Score of a place without a box."""


class Candidates(NamedTuple):
    """P places for boxes of an image, some of them empty."""

    boxes: Tensor
    """(P, 4) float32, in pixels of the network's input."""
    scores: Tensor
    """(P,) in [0, 1], or -1 where there is no box."""
    labels: Tensor
    """(P,) int64."""

    @property
    def exist(self) -> Tensor:
        """(P,) bool, where there is a box."""
        return self.scores > _NONE

    def keep(self, condition: Tensor) -> Candidates:
        """Leave boxes out where the condition (P,) does not hold."""
        return self._replace(scores=self.scores.where(condition, _NONE))

    def filled(self, count: int) -> Candidates:
        """With empty places at the end, if there are fewer than ``count``."""
        missing = max(count - len(self.scores), 0)
        return Candidates(
            functional.pad(self.boxes, (0, 0, 0, missing)),
            functional.pad(self.scores, (0, missing), value=_NONE),
            functional.pad(self.labels, (0, missing)),
        )

    def at(self, index: Tensor, condition: Tensor) -> Candidates:
        """The places ``index`` (n,), empty where ``condition`` (n,) does not hold."""
        return Candidates(*(each[index] for each in self)).keep(condition)


def best(candidates: Candidates, count: int) -> Candidates:
    """The ``count`` places of the highest scores, in their order; fewer if there are fewer."""
    scores, index = candidates.scores.topk(min(count, len(candidates.scores)))
    return Candidates(candidates.boxes[index], scores, candidates.labels[index])


def overlapping(candidates: Candidates, iou_threshold: float, class_agnostic: bool) -> Tensor:
    """(P, P) bool: the same class (unless agnostic), and an IoU above the threshold, or the same.

    Boxes of other classes are not moved apart, as mmcv does it, which rounds their sides.
    """
    x1, y1, x2, y2 = candidates.boxes.unbind(1)
    areas = (x2 - x1) * (y2 - y1)
    width = torch.minimum(x2[:, None], x2) - torch.maximum(x1[:, None], x1)
    height = torch.minimum(y2[:, None], y2) - torch.maximum(y1[:, None], y1)
    shared = width.clamp(min=0) * height.clamp(min=0)
    union = (areas[:, None] + areas - shared).clamp(min=1e-6)
    above = shared / union > iou_threshold
    if not class_agnostic:
        above = above & (candidates.labels[:, None] == candidates.labels)
    number = torch.arange(len(areas), device=areas.device)
    return above | (number[:, None] == number)


def greedy_survivors(preference: Tensor, overlaps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first survivors of greedy suppression.

    Args:
        preference: (P,) larger is better; -inf where there is no box.
        overlaps: (P, P) of :func:`overlapping`.
        count: how many, at most P.

    Returns:
        Their index (count,) int64, by descending preference, and whether there are so many (count,)
        bool.
    """
    chosen, values = [], []
    for _ in range(count):
        value, index = preference.max(0, keepdim=True)
        chosen.append(index)
        values.append(value)
        preference = preference.masked_fill(overlaps[index].squeeze(0), -torch.inf)
    return torch.cat(chosen), torch.cat(values) > -torch.inf


def by_scores(
    candidates: Candidates, iou_threshold: float, class_agnostic: bool, count: int
) -> Candidates:
    """What mmdet's NMS leaves, ``count`` places in the order of their scores."""
    overlaps = overlapping(candidates, iou_threshold, class_agnostic)
    preference = candidates.scores.masked_fill(~candidates.exist, -torch.inf)
    index, found = greedy_survivors(preference, overlaps, min(count, len(preference)))
    return candidates.at(index, found)


def by_energy(
    candidates: Candidates, log_density: Tensor, iou_threshold: float, count: int
) -> Candidates:
    """What :class:`~ebm_mmdet.models.EnergyGuidedNMS` leaves, ``count`` places by their new scores.

    Args:
        candidates: of P places.
        log_density: f (P,) of their boxes.
        iou_threshold: a box is suppressed if its IoU with a survivor is above this.
        count: number of places to return, at most P.
    """
    # A box with f = -inf exists, and comes last.
    f = log_density.nan_to_num(nan=-torch.inf).clamp(min=torch.finfo(log_density.dtype).min)
    preference = f.masked_fill(~candidates.exist, -torch.inf)
    overlaps = overlapping(candidates, iou_threshold, class_agnostic=False)
    index, found = greedy_survivors(preference, overlaps, len(preference))
    # The first survivor that overlaps with a box is the one that removed it.
    owner = (overlaps[index] & found[:, None]).to(f.dtype).argmax(0)
    number = torch.arange(len(f), device=f.device)
    of_cluster = (owner == number[:, None]) & candidates.exist
    scores = candidates.scores.where(of_cluster, _NONE).amax(1)
    survivors = candidates.at(index, found)
    return best(survivors._replace(scores=scores.where(found, _NONE)), count)
