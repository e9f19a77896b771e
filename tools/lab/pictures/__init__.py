"""Pictures: functions of arrays that return matplotlib figures."""

from .boxes import draw_before_after, draw_refinement_paths
from .curves import plot_ap_vs_steps
from .curves3d import plot_rotation_scans, plot_steps_3d
from .density import plot_density_slices
from .hills import draw_two_hills
from .rooms import draw_rooms

__all__ = [
    "draw_before_after",
    "draw_refinement_paths",
    "draw_rooms",
    "draw_two_hills",
    "plot_ap_vs_steps",
    "plot_density_slices",
    "plot_rotation_scans",
    "plot_steps_3d",
]
