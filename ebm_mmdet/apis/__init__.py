"""Functions for scripts: load a trained detector, cache its features, compute its residuals."""

from .feature_cache import TestImage, TrainingView, cache_test_images, cache_training_views
from .frozen_detector import load_frozen_detector
from .residuals import detector_residuals, matched_residuals

__all__ = [
    "TestImage",
    "TrainingView",
    "cache_test_images",
    "cache_training_views",
    "detector_residuals",
    "load_frozen_detector",
    "matched_residuals",
]
