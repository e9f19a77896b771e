"""Matching of detections and objects, and their residuals."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet, which `make test` installs")

from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from pycocotools.coco import COCO

from ebm_mmdet.apis import matched_residuals
from ebm_mmdet.models.box_coding import encode_boxes


def annotated(*objects: tuple[list[float], int, int]) -> COCO:
    coco = COCO()
    coco.dataset = dict(
        images=[dict(id=5)],
        categories=[dict(id=1), dict(id=2)],
        annotations=[
            dict(id=i, image_id=5, category_id=category, bbox=box, iscrowd=crowd)
            for i, (box, category, crowd) in enumerate(objects, start=1)
        ],
    )
    coco.createIndex()
    return coco


def detected(boxes: list[list[float]], scores: list[float], labels: list[int]) -> DetDataSample:
    found = InstanceData(
        bboxes=torch.tensor(boxes), scores=torch.tensor(scores), labels=torch.tensor(labels)
    )
    return DetDataSample(metainfo=dict(img_id=5), pred_instances=found)


def test_one_to_one_by_falling_score() -> None:
    truth = annotated(([10.0, 10, 20, 20], 1, 0), ([50.0, 10, 10, 30], 2, 0))
    boxes = [
        [11.0, 10, 31, 30],  # the object, but another detection has the higher score
        [10.0, 11, 30, 31],  # matched
        [50.0, 10, 60, 38],  # matched
        [10.0, 10, 30, 30],  # wrong class
        [50.0, 10, 60, 40],  # perfect, and below the threshold
    ]
    sample = detected(boxes, [0.8, 0.9, 0.7, 0.95, 0.1], [0, 0, 1, 1, 1])
    residuals = matched_residuals(truth, [sample], [1, 2])
    expected = torch.cat(
        [
            encode_boxes(torch.tensor([[10.0, 10, 30, 30]]), torch.tensor([boxes[1]])),
            encode_boxes(torch.tensor([[50.0, 10, 60, 40]]), torch.tensor([boxes[2]])),
        ]
    )
    torch.testing.assert_close(residuals, expected)


def test_crowds_strangers_and_empty_images() -> None:
    truth = annotated(([10.0, 10, 20, 20], 1, 1), ([60.0, 60, 20, 20], 1, 0))
    sample = detected([[10.0, 10, 30, 30], [60, 60, 70, 70]], [0.9, 0.9], [0, 0])
    assert matched_residuals(truth, [sample], [1, 2]).shape == (0, 4)  # IoU 0.25 and a crowd
    nothing = detected([], [], [])
    nothing.pred_instances.bboxes = torch.zeros(0, 4)
    assert matched_residuals(truth, [nothing], [1, 2]).shape == (0, 4)
