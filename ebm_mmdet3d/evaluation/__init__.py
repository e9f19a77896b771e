"""Overlaps of rotated boxes, KITTI's average precision, and the metric based on them.

All except the metric need only numba.
"""

import typing as _typing  # mypy knows TYPE_CHECKING by this name only

from ..requirements import explain_missing_names as _explain_missing_names
from ..requirements import missing_packages as _missing_packages
from .kitti_average_precision import DIFFICULTIES, KittiPrecision, kitti_precision
from .rotated_iou import bev_overlaps_camera, box_iou_3d, box_iou_bev, iou_3d_camera

__all__ = [
    "DIFFICULTIES",
    "KittiPrecision",
    "bev_overlaps_camera",
    "box_iou_3d",
    "box_iou_bev",
    "iou_3d_camera",
    "kitti_precision",
]

if _typing.TYPE_CHECKING or not _missing_packages():
    from .ebm_kitti_metric import EBMKittiMetric

    __all__ += ["EBMKittiMetric"]
else:
    __getattr__ = _explain_missing_names(__name__, ["EBMKittiMetric"])
