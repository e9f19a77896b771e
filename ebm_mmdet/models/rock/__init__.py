"""ROCK: detection that also learns from scene, depth and surface normals."""

from .auxiliary_task import AuxiliaryTask
from .depth_task import DepthTask, berhu
from .dilated_resnet import TorchvisionDilatedResNet
from .fraction_anchors import FractionSSDAnchorGenerator
from .normals_task import NormalsTask
from .rock_block import ROCKBlock
from .rock_detector import ROCKDetector
from .scene_task import SceneTask
from .ssd_head import ROCKSSDHead
from .ssd_levels import SSDLevels

__all__ = [
    "AuxiliaryTask",
    "DepthTask",
    "FractionSSDAnchorGenerator",
    "NormalsTask",
    "ROCKBlock",
    "ROCKDetector",
    "ROCKSSDHead",
    "SSDLevels",
    "SceneTask",
    "TorchvisionDilatedResNet",
    "berhu",
]
