"""Data sets."""

from .shapes import CLASSES, render_shapes, write_coco
from .shapes_dataset import ShapesDataset

__all__ = ["CLASSES", "ShapesDataset", "render_shapes", "write_coco"]
