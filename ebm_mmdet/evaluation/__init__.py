"""Metrics, registered with mmdet, and the functions that they use."""

from .gaussian_scores import (
    central_coverage,
    expected_calibration_error,
    floor_covariance,
    gaussian_energy_score,
    gaussian_nll,
    side_covariance,
)
from .high_iou_coco_metric import HighIoUCocoMetric
from .matching import match_detections
from .probabilistic_box_metric import ProbabilisticBoxMetric

__all__ = [
    "HighIoUCocoMetric",
    "ProbabilisticBoxMetric",
    "central_coverage",
    "expected_calibration_error",
    "floor_covariance",
    "gaussian_energy_score",
    "gaussian_nll",
    "match_detections",
    "side_covariance",
]
