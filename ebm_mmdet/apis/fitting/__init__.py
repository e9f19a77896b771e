"""Fit an energy head to a detector within a time, and say whether it pays."""

from .run import fit, run_fit

__all__ = ["fit", "run_fit"]
