"""The 2D models; importing this registers them with mmdet."""

from .box_coding import change_reference, decode_boxes, encode_boxes
from .detectors import EBMDetector
from .heads import EBMBBoxHead, KLBBoxHead, KLRetinaHead, ProposalEBMBBoxHead
from .losses import KLLoss
from .side_uncertainty import encode_side_std
from .task_modules import (
    DeltaXYXYBBoxCoder,
    EnergyGuidedNMS,
    GradientAscentRefiner,
    ImportanceMeanRefiner,
    ProposalRefiner,
    variance_vote,
)

__all__ = [
    "DeltaXYXYBBoxCoder",
    "EBMBBoxHead",
    "EBMDetector",
    "EnergyGuidedNMS",
    "GradientAscentRefiner",
    "ImportanceMeanRefiner",
    "KLBBoxHead",
    "KLLoss",
    "KLRetinaHead",
    "ProposalEBMBBoxHead",
    "ProposalRefiner",
    "change_reference",
    "decode_boxes",
    "encode_boxes",
    "encode_side_std",
    "variance_vote",
]
