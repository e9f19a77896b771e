"""Test-time augmentation, registered in mmdet's ``MODELS``."""

from .ebm_tta_model import EBMTTAModel

__all__ = ["EBMTTAModel"]
