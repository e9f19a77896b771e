"""Heads, registered in mmdet's ``MODELS``."""

from .ebm_bbox_head import BoxLogDensity, EBMBBoxHead
from .feature_standardizer import FeatureStandardizer
from .proposal_head import ProposalBoxLogDensity, ProposalEBMBBoxHead

__all__ = [
    "BoxLogDensity",
    "EBMBBoxHead",
    "FeatureStandardizer",
    "ProposalBoxLogDensity",
    "ProposalEBMBBoxHead",
]
