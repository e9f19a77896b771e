"""Data sets. Generating images and scenes needs only numpy, scipy and OpenCV."""

import typing as _typing  # mypy knows TYPE_CHECKING by this name only

from ..requirements import explain_missing_names as _explain_missing_names
from ..requirements import missing_packages as _missing_packages
from .shapes import CLASSES, render_conventions, render_shapes, write_coco

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
    "RoomScenesDataset",
    "ShapesDataset",
    "render_conventions",
    "render_shapes",
    "use_checked_annotations",
    "write_coco",
]

if _typing.TYPE_CHECKING or not _missing_packages():
    from .annotation_check import AnnotationError
    from .coco_check import CheckedCOCO, use_checked_annotations
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
    from .rooms import RoomScenesDataset
    from .shapes_dataset import ShapesDataset
else:
    __getattr__ = _explain_missing_names(__name__, __all__)
