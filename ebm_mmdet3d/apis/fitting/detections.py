"""A detector's boxes with the map of their frame, and what a method makes of them."""

from __future__ import annotations

import copy

import torch
from mmdet3d.structures import Det3DDataSample
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData

from ebm_mmdet.apis.feature_cache import TrainingView
from ebm_mmdet.apis.fitting.data import FitData
from ebm_mmdet.apis.fitting.detections import Detected, Method
from ebm_mmdet.apis.fitting.items import read_item
from ebm_mmdet.apis.timing import timed
from ebm_mmdet.energy import evaluate_only

from ...models import EBM3DDetector
from ...models.detectors.frames import occupied_frames
from .frame_set import frame_key

__all__ = ["detect_frame", "frame_records", "make_frame_view", "refine_frame"]


@torch.no_grad()
def detect_frame(model: EBM3DDetector, item: dict, max_dets: int = 100) -> Detected:
    """Run the detector inside on one item of a test data set; the best boxes are kept.

    Returns:
        The maps (1, C, H, W), and a sample with ``pred_instances_3d``. A frame without points has
        an empty map and no boxes.
    """
    batch = model.data_preprocessor(pseudo_collate([item]), False)
    inputs, samples = batch["inputs"], batch["data_samples"]
    if occupied_frames(inputs, 1):
        with model.capture_features() as features:
            (found,), seconds = timed(model.detector.predict, inputs, samples)
        maps = model.energy_head.with_heights(features(), inputs["points"])
        maps = maps[: model.energy_head.feature_level + 1]
    else:
        (found,), seconds = timed(model.predict, inputs, samples, evaluate_only)
        empty = torch.zeros(1, model.energy_head.map_channels, 1, 1)
        maps = [empty.to(found.pred_instances_3d.scores_3d.device)] * (
            model.energy_head.feature_level + 1
        )
    boxes = found.pred_instances_3d
    best = boxes.scores_3d.argsort(descending=True, stable=True)[:max_dets]
    kept = InstanceData(
        bboxes_3d=boxes.bboxes_3d[best],
        scores_3d=boxes.scores_3d[best],
        labels_3d=boxes.labels_3d[best],
    )
    return Detected(tuple(maps), Det3DDataSample(pred_instances_3d=kept), seconds)


@torch.no_grad()
def refine_frame(
    model: EBM3DDetector, method: Method, frame: Detected
) -> tuple[InstanceData, float]:
    """The boxes of a frame after a method, and the seconds it took.

    The model's own head and ``min_score`` are put back afterwards.
    """
    kept = model.energy_head, model.min_score
    model.energy_head, model.min_score = method.head, method.min_score
    device = next(method.head.parameters()).device
    sample = copy.deepcopy(frame.sample).to(device)
    maps = [level.to(device) for level in frame.maps]

    def run() -> Det3DDataSample:
        return model.refine(method.head.prepare(maps), [sample], method.refiner)[0]

    try:
        found, seconds = timed(run)
    finally:
        model.energy_head, model.min_score = kept
    return found.pred_instances_3d, seconds


def frame_records(found: InstanceData) -> list[dict]:
    """Boxes of a frame for a file: ``box`` (7,), ``score``, ``label``."""
    boxes = found.bboxes_3d.tensor[:, :7].float().cpu().tolist()
    scores, labels = found.scores_3d.float().tolist(), found.labels_3d.tolist()
    return [
        dict(box=box, score=score, label=label) for box, score, label in zip(boxes, scores, labels)
    ]


@torch.no_grad()
def make_frame_view(model: EBM3DDetector, data: FitData, index: int) -> TrainingView | None:
    """Map and boxes of one augmented training frame, on the CPU.

    None if its augmentation has left no box or no point, or has put a frame in its place that must
    not be trained on (mmengine's data sets replace a frame without boxes by another one).

    Raises:
        ValueError: a label is not one of the detector's classes.
    """
    item = read_item(data.train, index, frame_key)
    if frame_key(item["data_samples"].metainfo | {"sample_idx": ""}) in data.held_out:
        return None
    batch = model.data_preprocessor(pseudo_collate([item]), False)
    truth = batch["data_samples"][0].gt_instances_3d
    boxes, labels = truth.bboxes_3d.tensor[:, :7].float(), truth.labels_3d.long()
    classes = model.energy_head.num_classes
    if len(labels) and int(labels.max()) >= classes:
        raise ValueError(
            f"a training frame has label {int(labels.max())}, but the detector has {classes} "
            "classes; set metainfo.classes of the data set to the detector's"
        )
    keep = model.energy_head.is_trainable_box(boxes) & (labels >= 0)
    if not keep.any() or not occupied_frames(batch["inputs"], 1):
        return None
    maps = model.extract_maps(batch["inputs"], batch["data_samples"])
    level = model.energy_head.feature_level
    views = tuple(each[0].cpu() for each in maps[: level + 1])
    return TrainingView(views, boxes[keep].cpu(), labels[keep].cpu())
