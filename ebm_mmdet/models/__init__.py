"""The 2D models; importing this registers them with mmdet."""

from .box_coding import change_reference, decode_boxes, encode_boxes
from .detectors import EBMDetector
from .heads import EBMBBoxHead, ProposalEBMBBoxHead
from .task_modules import (
    EnergyGuidedNMS,
    GradientAscentRefiner,
    ImportanceMeanRefiner,
    ProposalRefiner,
)

__all__ = [
    "EBMBBoxHead",
    "EBMDetector",
    "EnergyGuidedNMS",
    "GradientAscentRefiner",
    "ImportanceMeanRefiner",
    "ProposalEBMBBoxHead",
    "ProposalRefiner",
    "change_reference",
    "decode_boxes",
    "encode_boxes",
]
