"""Heads, registered in mmdet's ``MODELS``."""

from .box_log_density import BoxLogDensity
from .box_regression import BoxRegression, RegressingBoxLogDensity
from .ebm_bbox_head import EBMBBoxHead
from .energy_head import EnergyHead
from .feature_standardizer import FeatureStandardizer
from .kl_bbox_head import KLBBoxHead
from .kl_retina_head import KLRetinaHead
from .proposal_ebm_bbox_head import ProposalBoxLogDensity, ProposalEBMBBoxHead
from .regressing_head import RegressingHead

__all__ = [
    "BoxLogDensity",
    "BoxRegression",
    "EBMBBoxHead",
    "EnergyHead",
    "FeatureStandardizer",
    "KLBBoxHead",
    "KLRetinaHead",
    "ProposalBoxLogDensity",
    "ProposalEBMBBoxHead",
    "RegressingBoxLogDensity",
    "RegressingHead",
]
