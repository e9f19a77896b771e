"""The 2D models; importing this registers them with mmdet."""

from .box_coding import change_reference, decode_boxes, encode_boxes
from .detectors import EBMDetector, SideIntervals, attach_intervals
from .heads import EBMBBoxHead, EnergyHead, KLBBoxHead, KLRetinaHead, ProposalEBMBBoxHead
from .inclusive_boxes import InclusiveRoIExtractor
from .losses import KLLoss
from .rock import (
    DepthTask,
    FractionSSDAnchorGenerator,
    NormalsTask,
    ROCKBlock,
    ROCKDetector,
    ROCKSSDHead,
    SceneTask,
    SSDLevels,
    TorchvisionDilatedResNet,
)
from .side_uncertainty import covariance_to_side_std, side_std_to_covariance
from .task_modules import (
    DeltaXYXYBBoxCoder,
    EnergyGuidedNMS,
    GradientAscentRefiner,
    ImportanceMeanRefiner,
    ProposalRefiner,
    variance_vote,
)
from .test_time_augs import EBMTTAModel
from .uncertain_instances import UncertainInstances

__all__ = [
    "DeltaXYXYBBoxCoder",
    "DepthTask",
    "EBMBBoxHead",
    "EBMDetector",
    "EBMTTAModel",
    "EnergyGuidedNMS",
    "EnergyHead",
    "FractionSSDAnchorGenerator",
    "GradientAscentRefiner",
    "ImportanceMeanRefiner",
    "InclusiveRoIExtractor",
    "KLBBoxHead",
    "KLLoss",
    "KLRetinaHead",
    "NormalsTask",
    "ProposalEBMBBoxHead",
    "ProposalRefiner",
    "ROCKBlock",
    "ROCKDetector",
    "ROCKSSDHead",
    "SSDLevels",
    "SceneTask",
    "SideIntervals",
    "TorchvisionDilatedResNet",
    "UncertainInstances",
    "attach_intervals",
    "change_reference",
    "covariance_to_side_std",
    "decode_boxes",
    "encode_boxes",
    "side_std_to_covariance",
    "variance_vote",
]
