"""Candidates of mmdet's one-stage detectors in fixed shapes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.models.dense_heads import RPNHead, YOLOXHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from torch import Tensor, nn

from .suppression import Candidates

__all__ = ["check_dense_head", "dense_candidates"]

_AS_INHERITED = ("predict", "predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")


def check_dense_head(head: nn.Module, name: str) -> None:
    """Raise ``ValueError`` unless the boxes of this head are decoded as they are here.

    Args:
        head: a dense head.
        name: its name, for the message.
    """
    base = next((base for base in (YOLOXHead, RPNHead) if isinstance(head, base)), BaseDenseHead)
    changed = [
        method
        for method in _AS_INHERITED
        if getattr(type(head), method, None) is not getattr(base, method)
    ]
    if changed:
        raise ValueError(
            f"{name} is {type(head).__name__}, whose {changed[0]} is its own; exported are heads "
            "with mmdet's common one (FCOS, RetinaNet, ATSS, RTMDet), YOLOXHead and RPNHead. "
            "The refinement alone can be exported: --refinement-only"
        )
    if getattr(head.loss_cls, "custom_cls_channels", False):
        raise ValueError(
            f"{name}.loss_cls is {type(head.loss_cls).__name__}, whose scores have an activation "
            "of its own; exported are sigmoid and softmax"
        )


def dense_candidates(
    head: nn.Module, maps: Sequence[Tensor], image_size: tuple[int, int], test_cfg: dict
) -> Candidates:
    """All that the head would give to NMS.

    Args:
        head: checked by :func:`check_dense_head`.
        maps: (1, C, H, W) of each level.
        image_size: (height, width) of the network's input, to which boxes are clipped.
        test_cfg: ``score_thr``, ``nms_pre`` and ``min_bbox_size`` as in mmdet.
    """
    outputs = head(maps)
    first = outputs[0]
    priors = head.prior_generator.grid_priors(
        [level.shape[-2:] for level in first],
        dtype=first[0].dtype,
        device=first[0].device,
        **({"with_stride": True} if isinstance(head, YOLOXHead) else {}),
    )
    if isinstance(head, YOLOXHead):
        return _of_yolox(head, outputs, priors, test_cfg["score_thr"])
    levels = zip(*outputs[:2], outputs[2] if len(outputs) > 2 else [None] * len(first), priors)
    found = [_of_level(head, *level, image_size, test_cfg) for level in levels]
    if isinstance(head, RPNHead):  # whose NMS is within each level
        numbered = enumerate(found)
        found = [each._replace(labels=torch.full_like(each.labels, k)) for k, each in numbered]
    return Candidates(*(torch.cat(parts) for parts in zip(*found)))


def _of_level(
    head: nn.Module,
    scores: Tensor,
    deltas: Tensor,
    factors: Tensor | None,
    priors: Tensor,
    image_size: tuple[int, int],
    test_cfg: dict,
) -> Candidates:
    """Up to ``nms_pre`` pairs of a prior and a class with the highest scores, of one level."""
    scores = _rows(scores, head.cls_out_channels)
    scores = scores.sigmoid() if head.use_sigmoid_cls else scores.softmax(1)[:, :-1]
    classes = scores.shape[1]
    # mmdet thresholds before it multiplies with centerness or IoU; an RPN does not at all.
    lowest = -1.0 if isinstance(head, RPNHead) else test_cfg.get("score_thr", 0)
    flat = scores.flatten()
    flat = flat.where(flat > lowest, -1.0)
    limit = test_cfg.get("nms_pre", -1)
    flat, index = flat.topk(min(limit, len(flat)) if limit > 0 else len(flat))
    row = torch.div(index, classes, rounding_mode="floor")
    boxes = head.bbox_coder.decode(
        priors[row], _rows(deltas, head.bbox_coder.encode_size)[row], max_shape=image_size
    )
    found = Candidates(boxes, flat, index - row * classes)
    exist = found.exist
    if factors is not None:
        factor = _rows(factors, 1).flatten().sigmoid()[row]
        found = found._replace(scores=found.scores * factor).keep(exist)
    smallest = test_cfg.get("min_bbox_size", -1)
    if smallest >= 0:
        sides = boxes[:, 2:] - boxes[:, :2]
        found = found.keep((sides > smallest).all(1))
    return found


def _of_yolox(
    head: nn.Module, outputs: Sequence[Sequence[Tensor]], priors: Sequence[Tensor], lowest: float
) -> Candidates:
    """Each prior with its best class."""
    sizes = (head.cls_out_channels, 4, 1)
    classes, deltas, objectness = (
        torch.cat([_rows(level, size) for level in levels]) for levels, size in zip(outputs, sizes)
    )
    boxes = head._bbox_decode(torch.cat(list(priors)), deltas.unsqueeze(0)).squeeze(0)
    scores, labels = classes.sigmoid().max(1)
    scores = scores * objectness.flatten().sigmoid()
    return Candidates(boxes, scores, labels).keep(scores >= lowest)


def _rows(level: Tensor, size: int) -> Tensor:
    """(1, A size, H, W) -> (H W A, size), the order of the priors."""
    return level[0].permute(1, 2, 0).reshape(-1, size)
