"""Write a wrapped detector, or its refinement alone, as a file that runs without mmdet."""

from .comparison import Comparison
from .detector_graph import DetectorGraph, left_out
from .graph_files import check_suffix, largest_differences, open_graph, write_graph
from .recording import Recorded, record
from .refinement_graph import RefinementGraph

__all__ = [
    "Comparison",
    "DetectorGraph",
    "Recorded",
    "RefinementGraph",
    "check_suffix",
    "largest_differences",
    "left_out",
    "open_graph",
    "record",
    "write_graph",
]
