"""Pictures of uncertainty: functions of arrays that return matplotlib figures, and a visualizer."""

from .reliability import plot_reliability
from .style import save_figure
from .uncertainty import UncertaintyVisualizer

__all__ = [
    "UncertaintyVisualizer",
    "plot_reliability",
    "save_figure",
]
