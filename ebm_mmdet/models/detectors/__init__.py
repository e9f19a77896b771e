"""Detectors, registered in mmdet's ``MODELS``."""

from .ebm_detector import EBMDetector
from .side_intervals import SideIntervals, attach_intervals

__all__ = ["EBMDetector", "SideIntervals", "attach_intervals"]
