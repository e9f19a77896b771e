"""SA-SSD as in its paper; mmdet3d's version differs from it."""

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
