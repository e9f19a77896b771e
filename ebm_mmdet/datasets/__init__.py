"""Data sets."""

from .coco_check import AnnotationError, CheckedCOCO, use_checked_annotations
from .shapes import CLASSES, render_shapes, write_coco
from .shapes_dataset import ShapesDataset

__all__ = [
    "CLASSES",
    "AnnotationError",
    "CheckedCOCO",
    "ShapesDataset",
    "render_shapes",
    "use_checked_annotations",
    "write_coco",
]
