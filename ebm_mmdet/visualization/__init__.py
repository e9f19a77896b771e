"""Plots of uncertainty: functions from arrays to matplotlib figures, and a visualizer."""

from .reliability import plot_reliability
from .style import save_figure
from .uncertainty import UncertaintyVisualizer

__all__ = [
    "UncertaintyVisualizer",
    "plot_reliability",
    "save_figure",
]
