"""Metrics, registered with mmdet, and the functions that they use."""

from .average_precision import MatchedDetections
from .bootstrap import Difference, bootstrap_weights, paired_bootstrap
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
    "Difference",
    "HighIoUCocoMetric",
    "MatchedDetections",
    "NormalsMetric",
    "ProbabilisticBoxMetric",
    "SceneAccuracy",
    "angles_between",
    "bootstrap_weights",
    "central_coverage",
    "expected_calibration_error",
    "floor_covariance",
    "gaussian_energy_score",
    "gaussian_nll",
    "match_detections",
    "paired_bootstrap",
    "side_covariance",
]
