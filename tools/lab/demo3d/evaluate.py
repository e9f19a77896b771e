"""Measure an `EBM3DDetector` after any number of steps, none included, and what its steps cost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmdet3d.registry import METRICS
from mmengine.config import Config
from torch import Tensor
from torch.utils.data import DataLoader

from ebm_mmdet.energy import RefinementResult
from ebm_mmdet3d.evaluation import box_iou_3d
from ebm_mmdet3d.models import EBM3DDetector

from ..demo.evaluate import RecordingRefiner, log_density_at
from ..timing import median_milliseconds

__all__ = [
    "MEAN_IOU",
    "METRICS_SHOWN",
    "THRESHOLDS",
    "TIME",
    "Climb3D",
    "time_per_frame",
    "trace_steps",
]

THRESHOLDS = (0.7, 0.75, 0.8, 0.85, 0.9)
# Name in our tables to metric and threshold; moderate difficulty, 40 recall positions.
METRICS_SHOWN = {
    f"{metric} AP, IoU {t:.2f}": (metric, t) for metric in ("3D", "BEV") for t in THRESHOLDS
}
MEAN_IOU = "mean 3D IoU"
TIME = "ms per frame"
_FOUND = 0.5  # 3D IoU from which on a detection belongs to an object


class Climb3D(NamedTuple):
    """The way of one detection, and the object it belongs to; all in the LiDAR frame."""

    points: np.ndarray
    """(N, 4) of the frame."""
    truth: np.ndarray
    """(7,) ``(x, y, z, l, w, h, yaw)``."""
    path: np.ndarray
    """(T + 1, 7), the box after each step."""
    log_density: Callable[[Tensor], Tensor]
    """Offsets (S, 7) from `path[0]`, in metres and radians, to f (S,)."""
    number: int
    """Which frame."""

    def iou(self) -> np.ndarray:
        """Return the 3D IoU with the truth after each step, ``(T + 1,)``."""
        return box_iou_3d(self.path, np.broadcast_to(self.truth, self.path.shape), aligned=True)


class _Replay:
    """A refiner that gives back a climb recorded before, up to some step."""

    def __init__(self, result: RefinementResult, step: int) -> None:
        trace = result.trace
        moved = trace.accepted[:step].sum(0)
        self.result = RefinementResult(trace.y[step], trace.log_density[step], moved, None)

    def __call__(self, *_) -> RefinementResult:
        return self.result


def trace_steps(
    model: EBM3DDetector, cfg: Config, loader: DataLoader, steps: Sequence[int]
) -> tuple[list[dict[str, float]], list[Climb3D]]:
    """Evaluate after every number of steps, in one pass over the frames.

    A climb of T steps begins with the climb of fewer steps, so that one recorded climb gives all.

    Args:
        model: In eval mode, with a refiner; it is changed for the call and put back.
        cfg: Config with `val_evaluator`.
        loader: One frame per batch.
        steps: Numbers of steps T.

    Returns:
        `METRICS_SHOWN` in percent and `MEAN_IOU` for each entry of `steps`; one climb of the
        largest of them per object that a detection meets with a 3D IoU of at least 0.5.
    """
    refiner, own_steps = model.refiner, model.refiner.num_steps
    recorder = RecordingRefiner(refiner)
    metrics, climbs = [_metric(cfg, loader) for _ in steps], []
    refiner.num_steps, refiner.return_trace = max(steps), True
    try:
        for number, batch in enumerate(loader):
            model.refiner = recorder
            with torch.inference_mode():
                sample = model.test_step(batch)[0]
            detected = sample.pred_instances_3d.bboxes_3d.new_box(recorder.fn.reference)
            paths = []
            for step in range(max(steps) + 1):
                model.refiner = _Replay(recorder.result, step)
                sample.pred_instances_3d.bboxes_3d = detected.clone()
                with torch.inference_mode():
                    model.refine(recorder.fn.feats, [sample])
                paths.append(sample.pred_instances_3d.bboxes_3d.tensor.numpy())
                for metric, count in zip(metrics, steps):
                    if count == step:
                        metric.process(batch, [sample.to_dict()])
            points = batch["inputs"]["points"][0].numpy()
            climbs += _climbs(recorder.fn, sample, np.stack(paths), points, number)
    finally:
        refiner.num_steps, refiner.return_trace = own_steps, False
        model.refiner = refiner
    overlaps = np.array([climb.iou() for climb in climbs]).reshape(-1, max(steps) + 1)
    return [
        {**_values(metric, loader), MEAN_IOU: float(overlaps[:, count].mean()) if climbs else 0.0}
        for metric, count in zip(metrics, steps)
    ], climbs


def _metric(cfg: Config, loader: DataLoader):
    metric = METRICS.build({**cfg.val_evaluator, "iou_thresholds": THRESHOLDS})
    metric.dataset_meta = loader.dataset.metainfo
    return metric


def _values(metric, loader: DataLoader) -> dict[str, float]:
    found = {k.rpartition("/")[2]: v for k, v in metric.evaluate(len(loader.dataset)).items()}
    return {
        name: float(found[f"Car_{kind}_AP40_moderate_IoU{threshold:g}"])
        for name, (kind, threshold) in METRICS_SHOWN.items()
    }


def _climbs(fn, sample, paths: np.ndarray, points: np.ndarray, number: int) -> Iterator[Climb3D]:
    """Match detections ``paths (T + 1, n, 7)`` to evaluated objects by the IoU of their start."""
    truth = sample.eval_ann_info
    boxes = truth["gt_bboxes_3d"].tensor.numpy()[np.asarray(truth.get("difficulty", [])) >= 0]
    overlaps = box_iou_3d(boxes, paths[0])
    for true_box, row in zip(boxes, overlaps):
        if not row.size or row.max() < _FOUND:
            continue
        best = int(row.argmax())
        overlaps[:, best] = 0  # taken
        yield Climb3D(points, true_box, paths[:, best], log_density_at(fn, best), number)


def time_per_frame(
    model: EBM3DDetector, loader: DataLoader, steps: Sequence[int], count: int
) -> list[float]:
    """Median wall times of one frame in milliseconds, loading left out, for every T of `steps`.

    Args:
        model: In eval mode, with a refiner; it is changed for the call and put back.
        loader: One frame per batch.
        steps: Numbers of steps; 0 is the detector and one evaluation of f.
        count: How many frames to time; the turns on a frame follow each other, so that other
            work on the machine meets all alike.
    """
    own_steps = model.refiner.num_steps

    def climbing(num_steps: int) -> Callable[[dict], None]:
        @torch.inference_mode()
        def run(batch: dict) -> None:
            model.refiner.num_steps = num_steps
            model.test_step(batch)

        return run

    try:
        return median_milliseconds(
            [climbing(num_steps) for num_steps in steps], itertools.islice(loader, count)
        )
    finally:
        model.refiner.num_steps = own_steps
