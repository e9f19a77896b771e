"""Pictures for people: functions of arrays that return matplotlib figures."""

from .boxes import draw_before_after, draw_refinement_paths
from .curves import plot_ap_vs_steps
from .density import plot_density_slices
from .reliability import plot_reliability
from .style import save_figure
from .uncertainty import UncertaintyVisualizer

__all__ = [
    "UncertaintyVisualizer",
    "draw_before_after",
    "draw_refinement_paths",
    "plot_ap_vs_steps",
    "plot_density_slices",
    "plot_reliability",
    "save_figure",
]
