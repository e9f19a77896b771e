"""Detectors, registered in mmdet3d's ``MODELS``."""

from ebm_mmdet.models.detectors.side_intervals import INTERVAL_KINDS

from .dim_intervals import DimIntervals
from .ebm3d_detector import EBM3DDetector

__all__ = ["DimIntervals", "EBM3DDetector"]

if DimIntervals not in INTERVAL_KINDS:
    INTERVAL_KINDS.append(DimIntervals)
