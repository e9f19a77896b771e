"""Measure an `EBMDetector` after any number of steps, including none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from mmdet.registry import METRICS
from mmengine.config import Config
from torch.utils.data import DataLoader

from ebm_mmdet.box_iou import box_iou
from ebm_mmdet.models import EBMDetector, decode_boxes
from ebm_mmdet.models.detectors.ebm_detector import clip_to_image

from ..climb import Climb, first_matches, log_density_at
from ..evaluate import RecordingRefiner, build_metric, changed, metric_values, predict

__all__ = ["METRICS_SHOWN", "TIME", "trace_steps"]

METRICS_SHOWN = {
    "AP": "bbox_mAP",
    "AP50": "bbox_mAP_50",
    "AP75": "bbox_mAP_75",
    "AP90": "bbox_mAP_90",
    "mean IoU": "bbox_mIoU_TP",
}
TIME = "ms per image"


def trace_steps(
    model: EBMDetector,
    cfg: Config,
    loader: DataLoader,
    steps: Sequence[int],
    pictured: int,
) -> tuple[list[dict[str, float]], list[Climb]]:
    """Evaluate after every number of steps, in one pass over the images.

    A climb of T steps begins with those of fewer steps, so one recorded climb is enough.

    Args:
        model: Model in eval mode, with a refiner.
        cfg: Config with `val_evaluator`.
        loader: Result of `val_loader`.
        steps: Numbers of steps T.
        pictured: Number of images from which climbs are returned, with the refiner's own number of
            steps.

    Returns:
        `METRICS_SHOWN` for each entry of `steps`, and one climb for each object of the first images
        that a detection of its class overlaps with an IoU of at least 0.5.
    """
    own_steps = model.refiner.num_steps
    recorder = RecordingRefiner(
        changed(model.refiner, num_steps=max(*steps, own_steps), return_trace=True)
    )
    metrics = [build_metric(METRICS, cfg.val_evaluator, loader) for _ in steps]
    climbs: list[Climb] = []
    for number, batch in enumerate(loader):
        (sample,) = predict(model, batch, recorder)
        boxes = decode_boxes(recorder.result.trace.y, recorder.fn.reference)
        boxes = clip_to_image(boxes, sample.metainfo)
        scale = boxes.new_tensor([*sample.metainfo["scale_factor"]] * 2)
        for metric, count in zip(metrics, steps):
            sample.pred_instances.bboxes = boxes[count] / scale
            metric.process(batch, [sample.to_dict()])
        if number < pictured:
            image = np.ascontiguousarray(batch["inputs"][0].numpy()[::-1].transpose(1, 2, 0))
            paths = boxes[: own_steps + 1].numpy()
            climbs += _climbs(recorder.fn, sample, paths, scale.numpy(), image, number)
    return [_values(metric, loader) for metric in metrics], climbs


def _values(metric, loader: DataLoader) -> dict[str, float]:
    found = metric_values(metric, loader)
    values = {name: 100 * float(found[key]) for name, key in METRICS_SHOWN.items()}
    return {**values, "mean IoU": values["mean IoU"] / 100}


def _climbs(
    fn, sample, paths: np.ndarray, scale: np.ndarray, image: np.ndarray, number: int
) -> Iterator[Climb]:
    """Match detections ``paths (T + 1, n, 4)`` to objects of their class by their first box."""
    found, truth = sample.pred_instances, sample.gt_instances
    # Paths are in network-input pixels, the truth is in pixels of the original image.
    boxes = getattr(truth.bboxes, "tensor", truth.bboxes).numpy() * scale
    overlaps = box_iou(boxes[:, None], paths[0])
    overlaps *= truth.labels.numpy()[:, None] == found.labels.numpy()
    for row, best in first_matches(overlaps):
        path, box = paths[:, best], boxes[row]
        yield Climb(image, box, path, box_iou(path, box), log_density_at(fn, best), number)
