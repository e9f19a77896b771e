"""Generated images with a known density of the label, 64 x 64 pixels each."""

from .cells import CELLS
from .task import SIZE, GeneratedTask, Sample

__all__ = ["CELLS", "SIZE", "TASKS", "GeneratedTask", "Sample"]

TASKS: dict[str, GeneratedTask] = {task.name: task for task in (CELLS,)}
"""The tasks by name."""
