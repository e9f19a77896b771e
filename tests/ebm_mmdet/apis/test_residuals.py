"""Matching of detections and objects, and their residuals; in crowded images every one counts."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
import torch

pytest.importorskip("mmdet", reason="detections are mmdet's")

from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from pycocotools.coco import COCO

from ebm_mmdet.apis import cache_test_images, detector_residuals, matched_residuals
from ebm_mmdet.apis.feature_cache import detect_images
from ebm_mmdet.models.box_coding import encode_boxes

OBJECTS = 130  # COCO's usual limit is 100
OFFSET = 0.1  # of the width, to the right


class _Detector:
    """Finds every object, each OFFSET times its width too far to the left."""

    candidates = None

    def __init__(self, boxes: torch.Tensor) -> None:
        self.boxes, self.detector = boxes, self

    def eval(self) -> None:
        pass

    def data_preprocessor(self, batch: dict, training: bool) -> dict:
        return {**batch, "inputs": torch.stack(batch["inputs"])}

    @contextmanager
    def maps_of(self, inputs: torch.Tensor):
        yield lambda: (torch.zeros(1, 1, 2, 2),)

    def predict(self, inputs, samples, rescale: bool) -> list[DetDataSample]:
        found = self.boxes - self.boxes.new_tensor([OFFSET * 10, 0, OFFSET * 10, 0])
        scores = torch.linspace(0.4, 0.9, len(found))
        (sample,) = samples
        sample.pred_instances = InstanceData(
            bboxes=found, scores=scores, labels=torch.zeros(len(found), dtype=torch.long)
        )
        return samples


@pytest.fixture
def crowded(tmp_path):
    """A detector and a data set of one image with OBJECTS objects of 10 x 10 px."""
    corners = torch.tensor([(15.0 * (i % 20), 15.0 * (i // 20)) for i in range(OBJECTS)])
    boxes = torch.cat([corners, corners + 10], 1)
    content = dict(
        images=[dict(id=1, file_name="a.png", width=300, height=300)],
        categories=[dict(id=1, name="thing")],
        annotations=[
            dict(id=i, image_id=1, category_id=1, bbox=[x, y, 10, 10], area=100, iscrowd=0)
            for i, (x, y) in enumerate(corners.tolist(), 1)
        ],
    )
    path = tmp_path / "crowded.json"
    path.write_text(json.dumps(content))

    class _Dataset(list):
        ann_file, cat_ids = str(path), [1]

    sample = DetDataSample(metainfo=dict(img_id=1))
    return _Detector(boxes), _Dataset([dict(inputs=torch.zeros(3, 2, 2), data_samples=sample)])


def test_every_detection_of_a_crowded_image_counts(crowded):
    residuals = detector_residuals(*crowded)
    assert residuals.shape == (OBJECTS, 4)
    expected = torch.tensor([OFFSET, 0, 0, 0]).expand(OBJECTS, 4)
    torch.testing.assert_close(residuals, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("most", [None, 7])
def test_the_best_detections_are_kept(crowded, most):
    (image,) = detect_images(*crowded, most)
    scores = image.detections.pred_instances.scores
    assert len(scores) == (most or OBJECTS)
    assert scores[0] == pytest.approx(0.9)
    assert (scores.diff() <= 0).all()


def test_kept_images_hold_as_many_as_coco_counts(crowded):
    (image,) = cache_test_images(*crowded)
    assert len(image.detections.pred_instances) == 100


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
