"""The demo's world of generated LiDAR scenes with oriented boxes; needs mmdet3d."""

from .world import LidarWorld

__all__ = ["LidarWorld"]
