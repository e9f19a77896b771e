"""Heads, registered in mmdet3d's ``MODELS``."""

from .ebm3d_refine_head import Box3DLogDensity, EBM3DRefineHead

__all__ = ["Box3DLogDensity", "EBM3DRefineHead"]
