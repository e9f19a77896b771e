"""Functions for scripts: load a trained detector, time it, cache its features and residuals."""

from .feature_cache import TestImage, TrainingView, cache_test_images, cache_training_views
from .frozen_detector import load_frozen_detector
from .residuals import detector_residuals, matched_residuals
from .timing import median_milliseconds, take_turns, timed
from .trained_detector import image_pipeline, load_detector

__all__ = [
    "TestImage",
    "TrainingView",
    "cache_test_images",
    "cache_training_views",
    "detector_residuals",
    "image_pipeline",
    "load_detector",
    "load_frozen_detector",
    "matched_residuals",
    "median_milliseconds",
    "take_turns",
    "timed",
]
