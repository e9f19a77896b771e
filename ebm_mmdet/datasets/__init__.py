"""Data sets."""

from ..requirements import (
    explain_missing_names as _explain_missing_names,
)
from ..requirements import (
    missing_packages as _missing_packages,
)
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
from .rooms import (
    RoomScenesDataset,
)
from .shapes import CLASSES, render_shapes, write_coco
from .shapes_dataset import ShapesDataset

__all__ = [
    "CLASSES",
    "AuxiliaryTargets",
    "LoadAuxiliaryMaps",
    "NYUv2Dataset",
    "PackMultiTaskInputs",
    "ROCKColorJitter",
    "ROCKRandomCrop",
    "RandomFlipWithMaps",
    "ResizeWithMaps",
    "render_shapes",
    "write_coco",
]
