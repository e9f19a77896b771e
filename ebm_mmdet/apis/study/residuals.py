"""How wrong are a detector's boxes? Residuals of matched detections, for the prior."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_overlaps
from pycocotools.coco import COCO
from torch import Tensor

from ...models.box_coding import encode_boxes
from ...models.detectors import EBMDetector
from .cache import cache_test_images

__all__ = ["detector_residuals", "matched_residuals"]


def detector_residuals(
    detector: EBMDetector, dataset: Sequence, score_thr: float = 0.3, iou_thr: float = 0.5
) -> Tensor:
    """Residuals (n, 4) of a detector on an mmdet data set; see :func:`matched_residuals`."""
    samples = [image.detections for image in cache_test_images(detector, dataset)]
    truth = COCO(dataset.ann_file)
    return matched_residuals(truth, samples, dataset.cat_ids, score_thr, iou_thr)


def matched_residuals(
    ground_truth: COCO,
    samples: Iterable[DetDataSample],
    category_ids: list[int],
    score_thr: float = 0.3,
    iou_thr: float = 0.5,
) -> Tensor:
    """Truth minus detection in encoded coordinates, for detections that found an object.

    Detections are taken by falling score; each is matched to the annotation of its class that
    overlaps it most and is still free, as in COCO's evaluation. Ignore regions are left out.

    Args:
        ground_truth: annotations.
        samples: detections in the images' own pixels, with ``img_id``.
        category_ids: COCO category of each label.
        score_thr: detections below this score are no part of it.
        iou_thr: least overlap of a match.

    Returns:
        (n, 4) offsets ``(cx/w, cy/h, log w, log h)`` relative to the detection.
    """
    residuals = [torch.zeros(0, 4)]
    for sample in samples:
        annotations = ground_truth.imgToAnns[sample.img_id]
        annotations = [a for a in annotations if not a.get("iscrowd") and min(a["bbox"][2:]) > 0]
        if not annotations:
            continue
        truth = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32)
        truth[:, 2:] += truth[:, :2]
        truth_category = torch.tensor([a["category_id"] for a in annotations])
        found = sample.pred_instances
        overlaps = bbox_overlaps(found.bboxes, truth)
        free = torch.ones(len(truth), dtype=torch.bool)
        for i in found.scores.argsort(descending=True, stable=True).tolist():
            if found.scores[i] < score_thr:
                break
            allowed = free & (truth_category == category_ids[int(found.labels[i])])
            overlap, match = overlaps[i].masked_fill(~allowed, -1).max(0)
            if overlap >= iou_thr:
                free[match] = False
                residuals.append(encode_boxes(truth[match], found.bboxes[i])[None])
    return torch.cat(residuals)
