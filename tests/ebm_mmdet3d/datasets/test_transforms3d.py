"""`MergeClasses3D` and `ObjectCornerRangeFilter`."""

import numpy as np
import pytest

pytest.importorskip("mmdet3d", reason="transforms of mmdet3d's pipelines")

import torch
from mmdet3d.structures import LiDARInstance3DBoxes

from ebm_mmdet3d.datasets.transforms import MergeClasses3D, ObjectCornerRangeFilter


def test_merged_classes():
    transform = MergeClasses3D(["Car", "Cyclist", "Van", "Truck"], dict(Van="Car", Truck="Car"))
    results = transform(dict(gt_labels_3d=np.array([0, 1, 2, 3, -1])))
    assert results["gt_labels_3d"].tolist() == [0, 1, 0, 0, -1]
    assert results["gt_labels_3d"].dtype == np.int64
    empty = transform(dict(gt_labels_3d=np.zeros(0, np.int64)))["gt_labels_3d"]
    assert empty.shape == (0,)
    assert "Van" in repr(transform)


@pytest.mark.parametrize("into", [dict(Van="Bus"), dict(Bus="Car"), dict(Van="Car", Car="Van")])
def test_merging_into_nothing_is_an_error(into):
    with pytest.raises(ValueError, match="merges"):
        MergeClasses3D(["Car", "Van"], into)


def test_corner_in_range():
    yaw = np.pi / 4
    reach = (2 + 1) / np.sqrt(2)  # of a 4 x 2 box at 45 degrees, along x
    boxes = torch.tensor(
        [
            [5.0, 0, -9.0, 4, 2, 1.5, 0.3],  # inside; z does not count
            [10 + reach - 0.01, 0, 0, 4, 2, 1.5, yaw],  # one corner inside
            [10 + reach + 0.01, 0, 0, 4, 2, 1.5, yaw],  # none
            [5.0, 0, 0, 4, 2, 1.5, 0.3 + 2 * np.pi],  # an angle beyond the range
            [5.0, 50, 0, 4, 2, 1.5, 0],
        ],
        dtype=torch.float32,
    )
    results = dict(gt_bboxes_3d=LiDARInstance3DBoxes(boxes), gt_labels_3d=np.arange(5))
    results = ObjectCornerRangeFilter([0, -10, -3, 10, 10, 1])(results)
    assert results["gt_labels_3d"].tolist() == [0, 1, 3]
    kept = results["gt_bboxes_3d"].tensor
    torch.testing.assert_close(kept[:, :6], boxes[[0, 1, 3], :6])
    torch.testing.assert_close(kept[:, 6], torch.tensor([0.3, yaw, 0.3]))
    none = dict(gt_bboxes_3d=LiDARInstance3DBoxes(boxes[:0]), gt_labels_3d=np.zeros(0, np.int64))
    assert len(ObjectCornerRangeFilter([0, -10, -3, 10, 10, 1])(none)["gt_bboxes_3d"]) == 0
