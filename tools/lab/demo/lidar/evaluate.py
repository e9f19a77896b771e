"""Measure an `EBM3DDetector` after any number of steps, including none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from mmdet3d.registry import METRICS
from mmengine.config import Config
from torch.utils.data import DataLoader

from ebm_mmdet.energy import RefinementResult
from ebm_mmdet3d.evaluation import box_iou_3d
from ebm_mmdet3d.models import EBM3DDetector

from ..climb import Climb, first_matches, log_density_at
from ..evaluate import RecordingRefiner, build_metric, changed, metric_values, predict

__all__ = ["MEAN_IOU", "METRICS_SHOWN", "THRESHOLDS", "TIME", "iou_along", "trace_steps"]

THRESHOLDS = (0.7, 0.75, 0.8, 0.85, 0.9)
# Metric and threshold by their name in our tables; moderate difficulty, 40 recall positions.
METRICS_SHOWN = {
    f"{metric} AP, IoU {t:.2f}": (metric, t) for metric in ("3D", "BEV") for t in THRESHOLDS
}
MEAN_IOU = "mean 3D IoU"
TIME = "ms per frame"


def iou_along(path: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the 3D IoU (T + 1,) of the boxes of a path (T + 1, 7) with a true box (7,)."""
    return box_iou_3d(path, np.broadcast_to(truth, path.shape), aligned=True)


class _Replay:
    """A refiner that returns a recorded climb up to a given state."""

    def __init__(self, result: RefinementResult, state: int) -> None:
        trace = result.trace
        moved = trace.accepted[:state].sum(0)
        self.result = RefinementResult(trace.y[state], trace.log_density[state], moved)

    def __call__(self, *_, **__) -> RefinementResult:
        return self.result


def trace_steps(
    model: EBM3DDetector, cfg: Config, loader: DataLoader, steps: Sequence[int]
) -> tuple[list[dict[str, float]], list[Climb]]:
    """Evaluate after every number of steps, in one pass over the frames.

    A climb of T steps begins with those of fewer steps, so one recorded climb is enough. First
    steps by regression belong to every climb, and zero steps mean none of either kind.

    Args:
        model: Model in eval mode, with a refiner.
        cfg: Config with `val_evaluator`.
        loader: One frame per batch.
        steps: Numbers of steps T.

    Returns:
        `METRICS_SHOWN` in percent and `MEAN_IOU` for each entry of `steps`; for each object that a
        detection overlaps with a 3D IoU of at least 0.5, one climb with the largest of `steps`.
    """
    recorder = RecordingRefiner(changed(model.refiner, num_steps=max(steps), return_trace=True))
    first = model.refiner.regression_steps
    states = [0, *range(first + 1, first + max(steps) + 1)]
    metrics, climbs = [_metric(cfg, loader) for _ in steps], []
    for number, batch in enumerate(loader):
        (sample,) = predict(model, batch, recorder)
        detected = sample.pred_instances_3d.bboxes_3d.new_box(recorder.fn.reference)
        paths = []
        for step, state in enumerate(states):
            sample.pred_instances_3d.bboxes_3d = detected.clone()
            with torch.inference_mode():
                model.refine(recorder.fn.feats, [sample], _Replay(recorder.result, state))
            paths.append(sample.pred_instances_3d.bboxes_3d.tensor.numpy())
            for metric, count in zip(metrics, steps):
                if count == step:
                    metric.process(batch, [sample.to_dict()])
        points = batch["inputs"]["points"][0].numpy()
        climbs += _climbs(recorder.fn, sample, np.stack(paths), points, number)
    overlaps = np.array([climb.iou for climb in climbs]).reshape(-1, max(steps) + 1)
    return [
        {**_values(metric, loader), MEAN_IOU: float(overlaps[:, count].mean()) if climbs else 0.0}
        for metric, count in zip(metrics, steps)
    ], climbs


def _metric(cfg: Config, loader: DataLoader):
    return build_metric(METRICS, {**cfg.val_evaluator, "iou_thresholds": THRESHOLDS}, loader)


def _values(metric, loader: DataLoader) -> dict[str, float]:
    found = metric_values(metric, loader)
    return {
        name: float(found[f"Car_{kind}_AP40_moderate_IoU{threshold:g}"])
        for name, (kind, threshold) in METRICS_SHOWN.items()
    }


def _climbs(fn, sample, paths: np.ndarray, points: np.ndarray, number: int) -> Iterator[Climb]:
    """Match detections ``paths (T + 1, n, 7)`` to evaluated objects by the IoU of their start."""
    truth = sample.eval_ann_info
    boxes = truth["gt_bboxes_3d"].tensor.numpy()[np.asarray(truth.get("difficulty", [])) >= 0]
    for row, best in first_matches(box_iou_3d(boxes, paths[0])):
        path, box = paths[:, best], boxes[row]
        yield Climb(points, box, path, iou_along(path, box), log_density_at(fn, best), number)
