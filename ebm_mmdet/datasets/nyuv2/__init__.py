"""NYUv2: boxes, depth, surface normals and types of scene of indoor images.

Classes, files of maps and the writer need only numpy, OpenCV and pycocotools.
"""

import typing as _typing  # mypy knows TYPE_CHECKING by this name only

from ...requirements import explain_missing_names as _explain_missing_names
from ...requirements import missing_packages as _missing_packages
from .classes import CLASSES
from .samples import annotate_masks, write_annotations, write_sample

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
    "annotate_masks",
    "write_annotations",
    "write_sample",
]

if _typing.TYPE_CHECKING or not _missing_packages():
    from .colour_jitter import ROCKColorJitter
    from .dataset import NYUv2Dataset
    from .geometry import RandomFlipWithMaps, ResizeWithMaps
    from .loading import LoadAuxiliaryMaps
    from .packing import AuxiliaryTargets, PackMultiTaskInputs
    from .random_crop import ROCKRandomCrop
else:
    __getattr__ = _explain_missing_names(__name__, __all__)
