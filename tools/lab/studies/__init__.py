"""Studies of refinement: heads trained on cached features, rivals, and a paired bootstrap."""

from ebm_mmdet.evaluation.average_precision import METRICS, MatchedDetections, coco_results
from ebm_mmdet.evaluation.bootstrap import Difference, bootstrap_weights, paired_bootstrap

from .detectors import compare_detectors
from .recipes import compare_recipes
from .study import StudySettings, metric_cell, run_study
from .study_file import Row, Study, StudyFileError, read_study
from .training import train_head

__all__ = [
    "METRICS",
    "Difference",
    "MatchedDetections",
    "Row",
    "Study",
    "StudyFileError",
    "StudySettings",
    "bootstrap_weights",
    "coco_results",
    "compare_detectors",
    "compare_recipes",
    "metric_cell",
    "paired_bootstrap",
    "read_study",
    "run_study",
    "train_head",
]
