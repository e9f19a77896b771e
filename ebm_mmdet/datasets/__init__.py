"""Data sets."""

from .coco_check import AnnotationError, CheckedCOCO, use_checked_annotations
from .nyuv2 import (
    AuxiliaryTargets,
    LoadAuxiliaryMaps,
    NYUv2Dataset,
    PackMultiTaskInputs,
    RandomFlipWithMaps,
    ResizeWithMaps,
    ROCKColorJitter,
    ROCKRandomCrop,
)
from .shapes import CLASSES, render_shapes, write_coco
from .shapes_dataset import ShapesDataset

__all__ = [
    "CLASSES",
    "AnnotationError",
    "AuxiliaryTargets",
    "CheckedCOCO",
    "LoadAuxiliaryMaps",
    "NYUv2Dataset",
    "PackMultiTaskInputs",
    "ROCKColorJitter",
    "ROCKRandomCrop",
    "RandomFlipWithMaps",
    "ResizeWithMaps",
    "ShapesDataset",
    "render_shapes",
    "use_checked_annotations",
    "write_coco",
]
