"""Non-maximum suppression ordered by log-density (the papers' candidate selection)."""

from __future__ import annotations

import copy

import torch
from mmdet.registry import TASK_UTILS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ...energy.host_reads import pays_to_read
from ..masks import masks_can_wait, without_masks

__all__ = ["EnergyGuidedNMS", "at_most"]


@TASK_UTILS.register_module()
class EnergyGuidedNMS:
    """NMS per class in which the box of highest f suppresses others and gets the best score.

    Survivors are those of ordinary greedy NMS with ``f`` in place of the scores; of boxes with
    equal f the first is preferred. Each suppressed box belongs to the survivor that removed it, the
    one of highest f of its class with ``IoU > iou_threshold``; a survivor's score becomes the
    largest classification score of its cluster, itself included. ``f`` decides nothing else: it can
    be compared only between boxes of one object, so detections are still ranked by their scores.

    Args:
        score_thr: boxes with a classification score above this are candidates.
        iou_threshold: a box is suppressed if its IoU with a survivor is above this.
        max_per_img: largest number of survivors; those of the highest scores are kept. -1: all.

    Source: Gustafsson et al., ECCV 2020 (1909.12297), detection code; Jiang et al., IoU-Net,
    ECCV 2018 (IoU-guided NMS).
    """

    def __init__(
        self, score_thr: float = 0.05, iou_threshold: float = 0.5, max_per_img: int = 100
    ) -> None:
        self.score_thr, self.iou_threshold = float(score_thr), float(iou_threshold)
        self.max_per_img = int(max_per_img)

    def without_nms(self, detector: nn.Module) -> nn.Module:
        """A detector that returns every box above ``score_thr`` and shares everything else.

        It predicts no masks where these can be predicted afterwards, for the survivors alone
        (:func:`~ebm_mmdet.models.masks.masks_can_wait`).

        The given detector does not change and may predict at the same time in another thread. Only
        the module that reads the test config and its parents are copied; no tensor is.

        Raises:
            ValueError: the detector has no NMS to replace (no ``test_cfg`` with ``nms`` on its
                RoI head or dense head); leave ``candidates=None`` for such detectors.
        """
        inner = getattr(detector, "detector", None)
        if isinstance(inner, nn.Module):  # a wrapper, such as ROCKDetector
            return _with_children(detector, detector=self.without_nms(inner))
        name = "roi_head" if getattr(detector, "roi_head", None) is not None else "bbox_head"
        head = getattr(detector, name, None)
        test_cfg = getattr(head, "test_cfg", None)
        if test_cfg is None or "nms" not in test_cfg:
            raise ValueError(
                f"{type(detector).__name__} has no NMS that EnergyGuidedNMS could replace; set "
                "candidates=None to refine its final detections"
            )
        head = without_masks(head) if masks_can_wait(detector) else copy.copy(head)
        # CrowdDet's own NMS cannot be left out, but made to suppress nothing.
        own_nms = hasattr(getattr(head, "bbox_head", None), "set_nms")
        nms_cfg = {**test_cfg["nms"], "iou_threshold": 2.0} if own_nms else None
        head.test_cfg = type(test_cfg)(
            {**test_cfg, "score_thr": self.score_thr, "nms": nms_cfg, "max_per_img": _NO_LIMIT}
        )
        return _with_children(detector, **{name: head})

    def __call__(self, instances: InstanceData, log_density: Tensor) -> InstanceData:
        """Select the survivors.

        Args:
            instances: ``bboxes`` (n, 4), ``scores`` (n,), ``labels`` (n,) and any other fields.
            log_density: (n,) f of each box for its class.

        Returns:
            Survivors in the order of their new scores, all fields kept.
        """
        if len(instances) == 0:
            return instances
        f = log_density.nan_to_num(nan=-torch.inf, neginf=-torch.inf)
        # By class, then by f: what is compared below is independent of f of other classes.
        order = f.argsort(descending=True, stable=True)
        order = order[instances.labels[order].argsort(stable=True)]
        boxes, labels = instances.bboxes[order].float(), instances.labels[order]
        owner, survivors = suppress(boxes, labels, self.iou_threshold)
        best = instances.scores[order].scatter_reduce(
            0, owner, instances.scores[order], "amax", include_self=True
        )[survivors]
        rank = best.argsort(descending=True, stable=True)[: at_most(self.max_per_img)]
        result = instances[order[survivors[rank]]]
        result.scores = best[rank]
        return result


def at_most(max_per_img: int | None) -> int | None:
    """The end of a slice of so many, or None, with which a slice has all: mmdet writes -1."""
    return max_per_img if max_per_img is not None and max_per_img > 0 else None


def suppress(boxes: Tensor, labels: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """Greedy NMS of all classes at once.

    Box i survives if no survivor before it has its label and ``IoU > iou_threshold``. The boxes
    that remain are taken in blocks. Within a block this recursion has one solution, which is found
    by iteration: after k rounds the first k boxes are right, and when a round changes nothing all
    are. Neighbours that decide one another in a long chain are rare, so a few rounds do. The
    survivors of the block then suppress others of their classes, which do not remain. Boxes of
    other classes are masked, not moved away as in ``batched_nms``, because adding offsets rounds
    the sides, and with them the IoU.

    Args:
        boxes: (n, 4) ``(x1, y1, x2, y2)``, float32; among those of a label, the preferred first.
        labels: (n,) integers in ascending order.
        iou_threshold: a box is suppressed if its IoU with a survivor is above this.

    Returns:
        For each box the first survivor that suppresses it, or itself, (n,) int64; and the
        survivors in the order of the boxes, int64.
    """
    size = _BLOCK_ON_CPU if pays_to_read(boxes.device, 0) else _BLOCK
    owner = torch.arange(len(boxes), device=boxes.device)
    remaining, survivors = owner, [owner[:0]]
    owner = owner.clone()
    overlaps = _Overlaps(boxes, labels, iou_threshold)
    while len(remaining):
        block, rest = remaining.tensor_split([size])
        # Classes are in order, so that those after the last of the block are behind one another.
        end = block.new_zeros(1)
        if len(rest):
            end = torch.searchsorted(labels[rest], labels[block[-1:]], right=True)
        survives, first, where, end = _solved(overlaps(block, block).triu_(1), end)
        owner[block] = torch.where(survives, block, block[first])
        found = block[where]
        survivors.append(found)
        same, rest = rest[:end], rest[end:]
        if len(same):
            suppressed, first = overlaps(found, same).max(0)
            owner[same] = torch.where(suppressed, found[first], same)
            rest = torch.cat([same[~suppressed], rest])
        remaining = rest
    return owner, torch.cat(survivors)


def _solved(inside: Tensor, end: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """The survivors of a block, and a number that the host reads together with them.

    Args:
        inside: (m, m) bool, whether box i, if it survives, suppresses box j; only j > i.
        end: (1,) int64.

    Returns:
        Whether each box survives, (m,) bool; the first that suppresses it, if it does not, (m,)
        int64; an index that selects the survivors; and ``end``.
    """
    reads_are_free = pays_to_read(inside.device, 0)
    survives = inside.new_ones(len(inside))
    settled, count, number = False, 0, 0
    while not settled:
        for _ in range(1 if reads_are_free else _ROUNDS):
            before = survives
            suppressed, first = (inside & survives[:, None]).max(0)
            survives = ~suppressed
        if reads_are_free:
            settled = torch.equal(before, survives)
        else:
            same = (before == survives).all()
            settled, count, number = torch.stack([same.long(), survives.sum(), end[0]]).tolist()
    if reads_are_free:
        return survives, first, survives, int(end)
    return survives, first, survives.argsort(descending=True, stable=True)[:count], number


class _Overlaps:
    """Whether boxes have one label and an IoU above a threshold, for indices (m,), (k,) -> (m, k).

    The IoU is that of mmdet's ``bbox_overlaps``, bit for bit, in half the time: coordinates lie one
    behind another, and intermediate results are overwritten.
    """

    def __init__(self, boxes: Tensor, labels: Tensor, iou_threshold: float) -> None:
        self.sides, self.labels = boxes.detach().T.contiguous(), labels
        self.iou_threshold = iou_threshold
        x1, y1, x2, y2 = self.sides
        self.areas = (x2 - x1) * (y2 - y1)

    def __call__(self, rows: Tensor, columns: Tensor) -> Tensor:
        (x1, y1, x2, y2), (u1, v1, u2, v2) = (
            self.sides[:, rows, None],
            self.sides[:, None, columns],
        )
        shared = torch.minimum(x2, u2).sub_(torch.maximum(x1, u1)).clamp_(min=0)
        height = torch.minimum(y2, v2).sub_(torch.maximum(y1, v1)).clamp_(min=0)
        shared *= height
        union = torch.add(self.areas[rows, None], self.areas[columns], out=height)
        union.sub_(shared).clamp_(min=_SMALLEST_UNION)
        above = shared.div_(union) > self.iou_threshold
        return above.logical_and_(self.labels[rows, None] == self.labels[columns])


def _with_children(module: nn.Module, **children: nn.Module) -> nn.Module:
    """A shallow copy of a module with some children of its own."""
    view = copy.copy(module)
    # A shallow copy would share the table of children.
    view.__dict__["_modules"] = {**module._modules, **children}
    return view


_NO_LIMIT = 1_000_000
"""A ``max_per_img`` that no detector reaches; -1 means "all" only in some mmdet heads."""

_BLOCK, _BLOCK_ON_CPU = 1024, 128
"""Boxes that are compared with one another at a time. The host waits for a GPU once in the last
block, and twice in each before it."""

_ROUNDS = 4
"""Rounds that a GPU does before the host asks whether they were enough, which they nearly always
are: one too many costs less than to ask."""

_SMALLEST_UNION = 1e-6
"""That of ``bbox_overlaps``, in square pixels: boxes without area have IoU 0."""
