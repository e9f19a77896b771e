"""Detectors, registered in mmdet's ``MODELS``."""

from .ebm_detector import EBMDetector

__all__ = ["EBMDetector"]
