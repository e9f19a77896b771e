"""IoU of axis-parallel boxes: hand-made cases, and pycocotools' own."""

from __future__ import annotations

import numpy as np
from pycocotools.mask import iou

from ebm_mmdet.box_iou import box_iou

BOXES = np.array([[5.0, 5.0, 25.0, 25.0], [30.0, 10.0, 50.0, 30.0]])


def test_hand_made_pairs() -> None:
    np.testing.assert_allclose(box_iou(BOXES, BOXES), 1)
    np.testing.assert_allclose(box_iou(BOXES, BOXES + np.array([10, 0, 10, 0])), 1 / 3)
    np.testing.assert_allclose(box_iou(BOXES, BOXES + 1000), 0)
    np.testing.assert_allclose(box_iou(BOXES * 0, BOXES * 0), 0)


def test_broadcasts_like_coco() -> None:
    rng = np.random.default_rng(0)
    corners, sizes = rng.uniform(0, 20, (2, 8, 2)), rng.uniform(1, 20, (2, 8, 2))
    first, second = np.concatenate([corners, corners + sizes], axis=-1)
    in_coco = np.concatenate([corners, sizes], axis=-1)
    expected = iou(in_coco[0], in_coco[1], np.zeros(8, np.uint8))
    np.testing.assert_allclose(box_iou(first[:, None], second), expected, atol=1e-12)
