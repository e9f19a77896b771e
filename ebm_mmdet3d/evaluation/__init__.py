"""Overlaps of rotated boxes, KITTI's average precision, and the metric that is made of them."""

from importlib.util import find_spec as _find_spec

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

if _find_spec("mmdet3d"):
    from .ebm_kitti_metric import EBMKittiMetric

    __all__ += ["EBMKittiMetric"]
