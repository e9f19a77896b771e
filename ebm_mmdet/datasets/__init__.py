"""Data sets. Generation needs only numpy, scipy and OpenCV."""

import typing as _typing  # mypy knows TYPE_CHECKING by this name only

from ..requirements import explain_missing_names as _explain_missing_names
from ..requirements import missing_packages as _missing_packages
from .shapes import CLASSES, render_shapes, write_coco

__all__ = ["CLASSES", "render_shapes", "write_coco"]


if _typing.TYPE_CHECKING or not _missing_packages():
    from .coco_check import AnnotationError, CheckedCOCO, use_checked_annotations
    from .rooms import RoomScenesDataset
    from .shapes_dataset import ShapesDataset

    __all__ += [
        "AnnotationError",
        "CheckedCOCO",
        "RoomScenesDataset",
        "ShapesDataset",
        "use_checked_annotations",
    ]
else:
    __getattr__ = _explain_missing_names(
        __name__,
        [
            "AnnotationError",
            "CheckedCOCO",
            "RoomScenesDataset",
            "ShapesDataset",
            "use_checked_annotations",
        ],
    )
