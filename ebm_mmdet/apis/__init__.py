"""Functions for scripts: add and fit an energy head, predict, time, cache features."""

from .auditing import apply_decisions, audit
from .boxes_from_file import refine_file
from .energy_config import add_energy_head, write_energy_config
from .feature_cache import TestImage, TrainingView, cache_test_images, cache_training_views
from .fitting import fit
from .inferencer import EBMInferencer
from .inspection import Inspection, inspect_config
from .interval_calibration import calibrate, fit_intervals
from .matched_sides import MatchedSides, matched_sides
from .residual_spread import ResidualSpread, residual_spread
from .residuals import detector_residuals, matched_residuals
from .timing import median_milliseconds, take_turns, timed
from .trained_detector import (
    image_pipeline,
    load_detector,
    load_frozen_detector,
    load_weights,
)

__all__ = [
    "EBMInferencer",
    "Inspection",
    "MatchedSides",
    "ResidualSpread",
    "TestImage",
    "TrainingView",
    "add_energy_head",
    "apply_decisions",
    "audit",
    "cache_test_images",
    "cache_training_views",
    "calibrate",
    "detector_residuals",
    "fit",
    "fit_intervals",
    "image_pipeline",
    "inspect_config",
    "load_detector",
    "load_frozen_detector",
    "load_weights",
    "matched_residuals",
    "matched_sides",
    "median_milliseconds",
    "refine_file",
    "residual_spread",
    "take_turns",
    "timed",
    "write_energy_config",
]
