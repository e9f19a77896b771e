"""Transforms that KITTI training as in the papers needs and mmdet3d does not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet3d.registry import TRANSFORMS

__all__ = ["MergeClasses3D", "ObjectCornerRangeFilter"]


@TRANSFORMS.register_module()
class MergeClasses3D(BaseTransform):
    """Give the objects of some classes the label of another one.

    SA-SSD and its energy head are trained on cars and vans alike. A data set drops the classes it
    is not asked for, so it is given both, and this comes right after the annotations are loaded:

        metainfo=dict(classes=['Car', 'Van'])
        dict(type='MergeClasses3D', classes=['Car', 'Van'], into=dict(Van='Car'))

    Put the classes that the detector knows first: their labels stay what they are.

    Args:
        classes: those of the data set, in order of their labels.
        into: name of a class that disappears to the name of the class it becomes.

    Raises:
        ValueError: ``into`` names a class that ``classes`` does not, or one that disappears too.

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
        # One more entry, at the end and thus at index -1: objects without a class keep that.
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
    """Keep the objects of which at least one corner of the ground rectangle is in range.

    mmdet3d's ``ObjectRangeFilter`` wants the centre in range. An object that is cut by the border
    is one that the energy head meets at test time too.

    Args:
        point_cloud_range: ``(x_min, y_min, z_min, x_max, y_max, z_max)`` in metres; z is not used.

    Source: the released code of Gustafsson et al. (arXiv:2012.04634).
    """

    def __init__(self, point_cloud_range: Sequence[float]) -> None:
        self.point_cloud_range = tuple(point_cloud_range)

    def transform(self, results: dict) -> dict:
        """Filter ``gt_bboxes_3d``, wrap yaw to [-pi, pi), and filter ``gt_labels_3d``."""
        boxes = results["gt_bboxes_3d"]
        corners = boxes.corners[:, [0, 3, 4, 7], :2]  # those at the bottom
        low, high = (corners.new_tensor(self.point_cloud_range[i : i + 2]) for i in (0, 3))
        keep = ((corners >= low) & (corners <= high)).all(-1).any(-1)
        boxes = boxes[keep]
        boxes.limit_yaw(offset=0.5, period=2 * np.pi)
        results["gt_bboxes_3d"] = boxes
        results["gt_labels_3d"] = results["gt_labels_3d"][keep.numpy()]
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(point_cloud_range={self.point_cloud_range})"
