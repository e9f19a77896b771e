"""The demo's world of scenes: LiDAR points and oriented boxes, generated; needs mmdet3d."""

from .world import LidarWorld

__all__ = ["LidarWorld"]
