"""Heads, registered in mmdet3d's ``MODELS``."""

from .box_regression_3d import BoxRegression3D
from .ebm3d_refine_head import EBM3DRefineHead

__all__ = ["BoxRegression3D", "EBM3DRefineHead"]
