"""Detectors, registered in mmdet3d's ``MODELS``."""

from .ebm3d_detector import EBM3DDetector

__all__ = ["EBM3DDetector"]
