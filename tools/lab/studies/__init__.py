"""Does refinement pay? Heads trained on cached features, rivals, and a paired bootstrap."""

from .average_precision import METRICS, MatchedDetections, coco_results
from .bootstrap import Difference, bootstrap_weights, paired_bootstrap
from .detectors import DetectorRow, compare_detectors
from .recipes import compare_recipes
from .study import StudySettings, metric_cell, run_study
from .training import train_head

__all__ = [
    "METRICS",
    "DetectorRow",
    "Difference",
    "MatchedDetections",
    "StudySettings",
    "bootstrap_weights",
    "coco_results",
    "compare_detectors",
    "compare_recipes",
    "metric_cell",
    "paired_bootstrap",
    "run_study",
    "train_head",
]
