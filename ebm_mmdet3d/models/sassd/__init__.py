"""SA-SSD as its paper has it, where mmdet3d's differs."""

from .anchor_head import SASSDHead
from .auxiliary_head import SASSDAuxiliaryHead
from .bev_net import SASSDBEVNet
from .detector import SASSDPaper
from .pswarp_head import PSWarpHead
from .sparse_encoder import SASSDSparseEncoder

__all__ = [
    "PSWarpHead",
    "SASSDAuxiliaryHead",
    "SASSDBEVNet",
    "SASSDHead",
    "SASSDPaper",
    "SASSDSparseEncoder",
]
