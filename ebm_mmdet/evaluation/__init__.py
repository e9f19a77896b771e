"""Metrics, registered with mmdet, and the functions that they use."""

from .depth_metric import DepthMetric
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
from .normals_metric import NormalsMetric, angles_between
from .probabilistic_box_metric import ProbabilisticBoxMetric
from .scene_accuracy import SceneAccuracy

__all__ = [
    "DepthMetric",
    "HighIoUCocoMetric",
    "NormalsMetric",
    "ProbabilisticBoxMetric",
    "SceneAccuracy",
    "angles_between",
    "central_coverage",
    "expected_calibration_error",
    "floor_covariance",
    "gaussian_energy_score",
    "gaussian_nll",
    "match_detections",
    "side_covariance",
]
