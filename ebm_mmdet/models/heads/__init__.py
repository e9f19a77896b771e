"""Heads, registered in mmdet's ``MODELS``."""

from .ebm_bbox_head import BoxLogDensity, EBMBBoxHead
from .feature_standardizer import FeatureStandardizer

__all__ = ["BoxLogDensity", "EBMBBoxHead", "FeatureStandardizer"]
