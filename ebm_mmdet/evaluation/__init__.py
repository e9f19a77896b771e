"""Metrics, registered with mmdet."""

from .high_iou_coco_metric import HighIoUCocoMetric

__all__ = ["HighIoUCocoMetric"]
