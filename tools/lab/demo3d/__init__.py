"""The demo in 3D: from nothing to refined boxes in point clouds, on two CPU cores."""

from .run import run_demo3d

__all__ = ["run_demo3d"]
