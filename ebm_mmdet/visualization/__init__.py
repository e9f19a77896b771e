"""Plots and pictures of predictions: functions of arrays, and visualizers."""

from .auxiliary_maps import depth_to_colour, depth_to_grey, enlarge, normals_to_rgb
from .multi_task import MultiTaskVisualizer
from .reliability import plot_reliability
from .style import save_figure
from .uncertainty import UncertaintyVisualizer

__all__ = [
    "MultiTaskVisualizer",
    "UncertaintyVisualizer",
    "depth_to_colour",
    "depth_to_grey",
    "enlarge",
    "normals_to_rgb",
    "plot_reliability",
    "save_figure",
]
