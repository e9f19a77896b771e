"""The 3D models; importing this registers them with mmdet3d.

Objectives, noise and refiners are those of 2D and are registered with mmdet3d too, because its
registries and mmdet's are siblings and do not find each other's parts. A config with one of ours as
its base, ``ebm_mmdet::ebm3d/name.py``, uses the scope ``ebm_mmdet``, where the models are also
registered.
"""

from mmdet3d.registry import TASK_UTILS

from ebm_mmdet.models.task_modules import TRAINING_AND_REFINEMENT_PARTS
from ebm_mmdet.registry import REGISTRIES

from .detectors import EBM3DDetector
from .heads import EBM3DRefineHead
from .sassd import (
    PSWarpHead,
    SASSDAuxiliaryHead,
    SASSDBEVNet,
    SASSDHead,
    SASSDPaper,
    SASSDSparseEncoder,
)

__all__ = [
    "EBM3DDetector",
    "EBM3DRefineHead",
    "PSWarpHead",
    "SASSDAuxiliaryHead",
    "SASSDBEVNet",
    "SASSDHead",
    "SASSDPaper",
    "SASSDSparseEncoder",
]

for _part in TRAINING_AND_REFINEMENT_PARTS:
    TASK_UTILS.register_module(module=_part)

for _name in __all__:
    REGISTRIES["MODELS"].register_module(module=globals()[_name])
