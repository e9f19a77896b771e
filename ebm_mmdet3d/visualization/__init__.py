"""Pictures of point clouds and boxes from above: functions of arrays that return figures."""

from .bev import draw_bev_boxes, draw_bev_scenes
from .curves import plot_rotation_scans, plot_steps_3d

__all__ = ["draw_bev_boxes", "draw_bev_scenes", "plot_rotation_scans", "plot_steps_3d"]
