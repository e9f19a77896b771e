"""Transforms of the papers' KITTI training that mmdet3d lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet3d.registry import TRANSFORMS

__all__ = ["MergeClasses3D", "ObjectCornerRangeFilter"]


@TRANSFORMS.register_module()
class MergeClasses3D(BaseTransform):
    """Give the objects of some classes the label of another one.

    SA-SSD and its energy head are trained on cars and vans alike. A data set drops classes that it
    is not configured for, so it gets both, and this transform follows the loading of annotations:

        metainfo=dict(classes=['Car', 'Van'])
        dict(type='MergeClasses3D', classes=['Car', 'Van'], into=dict(Van='Car'))

    The detector's own classes must come first, so that their labels stay the same.

    Args:
        classes: classes of the data set, in order of their labels.
        into: name of each class that disappears -> name of the class that it becomes.

    Raises:
        ValueError: ``into`` names a class that is not in ``classes``, or a target that disappears
            too.

    Source: the released code of SA-SSD (He et al., CVPR 2020) and of Gustafsson et al.,
    CVPR Workshops 2021 (arXiv:2012.04634).
    """

    def __init__(self, classes: Sequence[str], into: Mapping[str, str]) -> None:
        classes = list(classes)
        for old, new in into.items():
            if old not in classes or new not in classes or new in into:
                raise ValueError(
                    f"into={dict(into)} merges {old!r} into {new!r}; both must be of {classes}, "
                    "and the second must stay"
                )
        self.classes, self.into = classes, dict(into)
        # One more entry at the end, that is at index -1, so that objects without a class keep -1.
        names = [self.into.get(name, name) for name in classes]
        self.new_label = np.array([*(classes.index(name) for name in names), -1], np.int64)

    def transform(self, results: dict) -> dict:
        """Change ``gt_labels_3d`` (n,)."""
        results["gt_labels_3d"] = self.new_label[results["gt_labels_3d"]]
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(classes={self.classes}, into={self.into})"


@TRANSFORMS.register_module()
class ObjectCornerRangeFilter(BaseTransform):
    """Keep objects with at least one corner of the ground rectangle in range.

    mmdet3d's ``ObjectRangeFilter`` requires the centre in range. But objects that the border cuts
    also occur at test time, so the energy head should be trained on them.

    Args:
        point_cloud_range: ``(x_min, y_min, z_min, x_max, y_max, z_max)`` in metres; z is not used.

    Source: the released code of Gustafsson et al. (arXiv:2012.04634).
    """

    def __init__(self, point_cloud_range: Sequence[float]) -> None:
        self.point_cloud_range = tuple(point_cloud_range)

    def transform(self, results: dict) -> dict:
        """Filter ``gt_bboxes_3d``, wrap yaw to [-pi, pi), and filter ``gt_labels_3d``."""
        boxes = results["gt_bboxes_3d"]
        corners = boxes.corners[:, [0, 3, 4, 7], :2]  # the bottom corners
        low, high = (corners.new_tensor(self.point_cloud_range[i : i + 2]) for i in (0, 3))
        keep = ((corners >= low) & (corners <= high)).all(-1).any(-1)
        boxes = boxes[keep]
        boxes.limit_yaw(offset=0.5, period=2 * np.pi)
        results["gt_bboxes_3d"] = boxes
        results["gt_labels_3d"] = results["gt_labels_3d"][keep.numpy()]
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(point_cloud_range={self.point_cloud_range})"
