"""NYUv2: boxes, depth, surface normals and types of scene of indoor images."""

from .classes import CLASSES
from .colour_jitter import ROCKColorJitter
from .dataset import NYUv2Dataset
from .geometry import RandomFlipWithMaps, ResizeWithMaps
from .loading import LoadAuxiliaryMaps
from .packing import AuxiliaryTargets, PackMultiTaskInputs
from .random_crop import ROCKRandomCrop
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
