"""One-to-one matching of detections and objects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.structures.bbox import bbox_overlaps
from pycocotools.coco import COCO
from torch import Tensor

__all__ = ["match_detections"]


def match_detections(
    ground_truth: COCO,
    image_id: int,
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    category_ids: Sequence[int],
    score_thr: float = 0.3,
    iou_thr: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Match the detections of one image, one to one.

    Detections are processed by descending score; each is matched to the annotation of its class
    that overlaps it most and is not yet matched, as in COCO's evaluation. Ignore regions are left
    out.

    Args:
        ground_truth: the annotations of the data set.
        image_id: id of the image in these annotations.
        boxes: (n, 4) ``(x1, y1, x2, y2)`` in the image's own pixels.
        scores: (n,) classification scores.
        labels: (n,) int64.
        category_ids: COCO category of each label.
        score_thr: detections below this score are left out.
        iou_thr: smallest IoU of a match.

    Returns:
        The indices of the matched detections, (m,) int64 by descending score, and the boxes of
        their objects, (m, 4) float32 in the format of ``boxes``.
    """
    annotations = ground_truth.imgToAnns[image_id]
    annotations = [a for a in annotations if not a.get("iscrowd") and min(a["bbox"][2:]) > 0]
    truth = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32).reshape(-1, 4)
    truth[:, 2:] += truth[:, :2]
    matched, objects = [], []
    if annotations:
        truth_category = torch.tensor([a["category_id"] for a in annotations])
        overlaps = bbox_overlaps(boxes.float(), truth)
        free = torch.ones(len(truth), dtype=torch.bool)
        for i in scores.argsort(descending=True, stable=True).tolist():
            if scores[i] < score_thr:
                break
            allowed = free & (truth_category == category_ids[int(labels[i])])
            overlap, match = overlaps[i].masked_fill(~allowed, -1).max(0)
            if overlap >= iou_thr:
                free[match] = False
                matched.append(i)
                objects.append(int(match))
    return torch.tensor(matched, dtype=torch.long), truth[objects]
