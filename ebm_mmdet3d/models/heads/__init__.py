"""Heads, registered in mmdet3d's ``MODELS``."""

from .ebm3d_refine_head import EBM3DRefineHead

__all__ = ["EBM3DRefineHead"]
