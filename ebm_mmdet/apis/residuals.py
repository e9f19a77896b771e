"""Residuals of a detector's boxes, from matched detections, for the prior of a refiner."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from mmdet.structures import DetDataSample
from pycocotools.coco import COCO
from torch import Tensor

from ..datasets import CheckedCOCO
from ..evaluation import match_detections
from ..models.box_coding import encode_boxes
from ..models.detectors import EBMDetector
from .feature_cache import detect_images

__all__ = ["detector_residuals", "matched_residuals"]


def detector_residuals(
    detector: EBMDetector, dataset: Sequence, score_thr: float = 0.3, iou_thr: float = 0.5
) -> Tensor:
    """Residuals (n, 4) of a detector on an mmdet data set; see :func:`matched_residuals`.

    Every detection with the score is matched, however many an image has.
    """
    samples = (image.detections for image in detect_images(detector, dataset))
    truth = CheckedCOCO(dataset.ann_file)
    return matched_residuals(truth, samples, dataset.cat_ids, score_thr, iou_thr)


def matched_residuals(
    ground_truth: COCO,
    samples: Iterable[DetDataSample],
    category_ids: list[int],
    score_thr: float = 0.3,
    iou_thr: float = 0.5,
) -> Tensor:
    """Truth minus detection in encoded coordinates, for detections that match an object.

    Detections are matched by :func:`~ebm_mmdet.evaluation.match_detections`.

    Args:
        ground_truth: the annotations of the data set.
        samples: detections in the images' own pixels, with ``img_id``.
        category_ids: COCO category of each label.
        score_thr: detections below this score are left out.
        iou_thr: smallest IoU of a match.

    Returns:
        (n, 4) offsets ``(cx/w, cy/h, log w, log h)`` relative to the detection.
    """
    residuals = [torch.zeros(0, 4)]
    for sample in samples:
        found = sample.pred_instances
        matched, truth = match_detections(
            ground_truth,
            sample.img_id,
            found.bboxes,
            found.scores,
            found.labels,
            category_ids,
            score_thr,
            iou_thr,
        )
        residuals.append(encode_boxes(truth, found.bboxes[matched]))
    return torch.cat(residuals)
