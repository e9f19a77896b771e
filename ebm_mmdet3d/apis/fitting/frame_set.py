"""Some frames of a data set of mmdet3d, with the annotations that they are judged by."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ebm_mmdet.apis.fitting.items import read_item

__all__ = ["FrameSet", "Truth3D", "annotations", "frame_key"]


class Truth3D(NamedTuple):
    """Annotated objects of a frame."""

    boxes: np.ndarray
    """(n, 7) float64 ``(x, y, z, l, w, h, yaw)``, z at the bottom, in metres and radians."""
    labels: np.ndarray
    """(n,) int64; -1 where the detector does not have the class."""
    neutral: np.ndarray
    """(n,) bool: a detection of the object is neither right nor wrong."""


def frame_key(info: Mapping) -> str:
    """What tells frames of a data set apart: the file of the points, or else the index.

    Raises:
        ValueError: the data set gives neither.
    """
    points = info.get("lidar_points") or {}
    for value in (info.get("lidar_path"), points.get("lidar_path"), info.get("sample_idx")):
        if value is not None:
            return str(value)
    raise ValueError(
        "the training data gives neither lidar_path nor sample_idx of its frames, by which those "
        "to tune on are kept out of the training"
    )


def annotations(dataset, info: Mapping) -> Mapping | None:
    """What mmdet3d reads from the annotation of a frame; None where only the pipeline knows it.

    Objects of classes that the data set is not configured for are among them, with the label -1, as
    far as the data set's class allows it.
    """
    if "instances" in info and hasattr(dataset, "_remove_dontcare"):
        everything = copy.copy(dataset)
        everything._remove_dontcare = lambda found: found
        return everything.parse_ann_info(copy.deepcopy(dict(info)))
    return info.get("ann_info") or info.get("eval_ann_info")


class FrameSet:
    """Frames of a data set of mmdet3d whose items come from the test pipeline.

    An object is neutral if it is of another class, lies outside of the point cloud range, has no
    point, or is harder than KITTI's hard (``difficulty`` of -1).

    Args:
        dataset: the data set.
        indices: which of its items.
        num_classes: of the detector.
        point_cloud_range: ``(x0, y0, z0, x1, y1, z1)`` of the detector, metres.
    """

    def __init__(
        self,
        dataset,
        indices: Sequence[int],
        num_classes: int,
        point_cloud_range: Sequence[float],
    ) -> None:
        self.dataset, self.indices = dataset, list(indices)
        self.num_classes, self.point_cloud_range = num_classes, tuple(point_cloud_range)
        self._truth: dict[int, Truth3D] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict:
        return read_item(self.dataset, self.indices[position], frame_key)

    def truth(self, position: int) -> Truth3D:
        """Annotations of a frame; read once, because settings are compared again and again."""
        if position not in self._truth:
            self._truth[position] = self._read(position)
        return self._truth[position]

    def _read(self, position: int) -> Truth3D:
        info = self.dataset.get_data_info(self.indices[position])
        found = annotations(self.dataset, info)
        if found is None:  # the data set makes its frames, and packs their boxes
            packed = self[position]["data_samples"].gt_instances_3d
            found = dict(gt_bboxes_3d=packed.bboxes_3d, gt_labels_3d=packed.labels_3d)
        boxes = found["gt_bboxes_3d"]
        boxes = np.asarray(getattr(boxes, "tensor", boxes), np.float64).reshape(len(boxes), -1)
        labels = np.asarray(found["gt_labels_3d"], np.int64).reshape(-1)
        labels = np.where(labels < self.num_classes, labels, -1)
        x0, y0, _, x1, y1, _ = self.point_cloud_range
        x, y = boxes[:, 0], boxes[:, 1]
        neutral = (labels < 0) | (x < x0) | (x > x1) | (y < y0) | (y > y1)
        for name, least in (("difficulty", 0), ("num_lidar_pts", 1)):
            values = np.asarray(found.get(name, ()))
            if len(values) == len(neutral):
                neutral |= values < least
        return Truth3D(boxes[:, :7], labels, neutral)
