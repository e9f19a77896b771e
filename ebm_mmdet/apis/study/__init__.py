"""Does refinement pay? Heads trained on cached features, rivals, and a paired bootstrap."""

from .average_precision import METRICS, MatchedDetections, coco_results
from .bootstrap import Difference, bootstrap_weights, paired_bootstrap
from .cache import cache_test_images, cache_training_views
from .detectors import DetectorRow, compare_detectors
from .recipes import compare_recipes
from .residuals import detector_residuals, matched_residuals
from .study import StudySettings, load_frozen_detector, metric_cell, run_study
from .training import train_head

__all__ = [
    "METRICS",
    "DetectorRow",
    "Difference",
    "MatchedDetections",
    "StudySettings",
    "bootstrap_weights",
    "cache_test_images",
    "cache_training_views",
    "coco_results",
    "compare_detectors",
    "compare_recipes",
    "detector_residuals",
    "load_frozen_detector",
    "matched_residuals",
    "metric_cell",
    "paired_bootstrap",
    "run_study",
    "train_head",
]
