"""Pictures of frames from above; they need matplotlib and numpy alone."""

from .from_above import add_bev_boxes, footprint_corners, show_points

__all__ = ["add_bev_boxes", "footprint_corners", "show_points"]
