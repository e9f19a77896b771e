"""Fit an energy head to a detector of mmdet3d within a time, and say whether it pays."""

from .run import fit_3d

__all__ = ["fit_3d"]
