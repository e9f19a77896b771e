"""Generated images with a known density of the label, 64 x 64 pixels each."""

from .cells import CELLS
from .digits import DIGITS
from .head import HEAD
from .rings import RINGS
from .road import ROAD
from .task import SIZE, GeneratedTask, Sample

__all__ = [
    "CELLS",
    "DIGITS",
    "HEAD",
    "RINGS",
    "ROAD",
    "SIZE",
    "TASKS",
    "GeneratedTask",
    "Sample",
]

TASKS: dict[str, GeneratedTask] = {task.name: task for task in (CELLS, ROAD, HEAD, RINGS, DIGITS)}
"""The tasks by name."""
