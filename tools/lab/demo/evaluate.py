"""Measure an `EBMDetector` after any number of steps, none included, and what its steps cost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS, MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

from ebm_mmdet.box_iou import box_iou
from ebm_mmdet.datasets import use_checked_annotations
from ebm_mmdet.energy import RefinementResult
from ebm_mmdet.engine import read_checkpoint
from ebm_mmdet.models import EBMDetector, decode_boxes, encode_boxes
from ebm_mmdet.models.detectors.ebm_detector import clip_to_image

from ..timing import median_milliseconds

METRICS_SHOWN = {
    "AP": "bbox_mAP",
    "AP50": "bbox_mAP_50",
    "AP75": "bbox_mAP_75",
    "AP90": "bbox_mAP_90",
    "mean IoU": "bbox_mIoU_TP",
}
TIME = "ms per image"


def load_model(cfg: Config, checkpoint: str) -> EBMDetector:
    """Build the model of a config in eval mode with all parameters of a checkpoint."""
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.load_state_dict(read_checkpoint(checkpoint)["state_dict"])
    return model.eval()


def val_loader(cfg: Config) -> DataLoader:
    """Build the loader of the validation images, one image per batch."""
    use_checked_annotations()
    return Runner.build_dataloader(cfg.val_dataloader, seed=0)


def _metric(cfg: Config, loader: DataLoader) -> CocoMetric:
    metric = METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = loader.dataset.metainfo
    return metric


def _values(metric: CocoMetric, loader: DataLoader) -> dict[str, float]:
    found = {k.rpartition("/")[2]: v for k, v in metric.evaluate(len(loader.dataset)).items()}
    values = {name: 100 * float(found[key]) for name, key in METRICS_SHOWN.items()}
    return {**values, "mean IoU": values["mean IoU"] / 100}


def time_per_image(model: EBMDetector, loader: DataLoader, count: int) -> tuple[float, float]:
    """Median wall times of one image, loading left out: the detector alone, and with refinement.

    Args:
        model: In eval mode; its refiner is taken away for a moment and put back.
        loader: What `val_loader` gives.
        count: How many images to time; the two turns on an image follow each other, so that
            other work on the machine meets both alike.

    Returns:
        Milliseconds.
    """
    kept = model.refiner

    def with_refiner(refiner) -> Callable[[dict], None]:
        @torch.inference_mode()
        def run(batch: dict) -> None:
            model.refiner = refiner
            model.test_step(batch)

        return run

    try:
        before, after = median_milliseconds(
            [with_refiner(None), with_refiner(kept)], itertools.islice(loader, count)
        )
    finally:
        model.refiner = kept
    return before, after


class Climb(NamedTuple):
    """The way of one detection, and the object it belongs to."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB, the network's input."""
    truth: np.ndarray
    """(4,) xyxy in pixels of `image`."""
    path: np.ndarray
    """(T + 1, 4) xyxy, the box after each step."""
    log_density: Callable[[Tensor], Tensor]
    """Encoded offsets (S, 4) from `path[0]` to f (S,)."""
    number: int
    """Which validation image."""

    def offsets(self) -> np.ndarray:
        """Return the path as encoded offsets from the detection, ``(T + 1, 4)``."""
        path = torch.from_numpy(self.path)
        return encode_boxes(path, path[:1]).numpy()

    def iou(self) -> tuple[float, float]:
        """Return the IoU with the truth before and after."""
        ends = box_iou(self.path[[0, -1]], self.truth)
        return float(ends[0]), float(ends[1])


class RecordingRefiner:
    """A refiner that remembers how it climbed."""

    def __init__(self, refiner) -> None:
        self.refiner = refiner
        self.fn = self.result = None

    def __call__(self, log_density_fn, y0: Tensor, found: Sequence = ()) -> RefinementResult:
        self.fn, self.result = log_density_fn, self.refiner(log_density_fn, y0, found)
        return self.result


def trace_steps(
    model: EBMDetector,
    cfg: Config,
    loader: DataLoader,
    steps: Sequence[int],
    pictured: int,
) -> tuple[list[dict[str, float]], list[Climb]]:
    """Evaluate after every number of steps, in one pass over the images.

    A climb of T steps begins with the climb of fewer steps, so that one recorded climb gives all.

    Args:
        model: In eval mode, with a refiner; it is changed for the call and put back.
        cfg: Config with `val_evaluator`.
        loader: What `val_loader` gives.
        steps: Numbers of steps T.
        pictured: From how many images to return climbs, of the refiner's own number of steps.

    Returns:
        `METRICS_SHOWN` for each entry of `steps`, and one climb per object of the first images
        that a detection of its class meets with an IoU of at least 0.5.
    """
    refiner = model.refiner
    own_steps, recorder = refiner.num_steps, RecordingRefiner(refiner)
    metrics, climbs = [_metric(cfg, loader) for _ in steps], []
    refiner.num_steps, refiner.return_trace = max(*steps, own_steps), True
    model.refiner = recorder
    try:
        for number, batch in enumerate(loader):
            with torch.inference_mode():
                sample = model.test_step(batch)[0]
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
    finally:
        refiner.num_steps, refiner.return_trace = own_steps, False
        model.refiner = refiner
    return [_values(metric, loader) for metric in metrics], climbs


def _climbs(
    fn, sample, paths: np.ndarray, scale: np.ndarray, image: np.ndarray, number: int
) -> Iterator[Climb]:
    """Match detections ``paths (T + 1, n, 4)`` to objects by the IoU of their first box."""
    found, truth = sample.pred_instances, sample.gt_instances
    # Paths are in network-input pixels, the truth is in those of the original image.
    truth_boxes = getattr(truth.bboxes, "tensor", truth.bboxes).numpy() * scale
    free = np.ones(len(found), bool)
    for true_box, label in zip(truth_boxes, truth.labels.tolist()):
        iou = box_iou(paths[0], true_box)
        iou = np.where(free & (found.labels.numpy() == label), iou, 0)
        if not iou.size or iou.max() < 0.5:
            continue
        best = int(iou.argmax())
        free[best] = False
        yield Climb(image, true_box, paths[:, best], log_density_at(fn, best), number)


def log_density_at(fn, row: int) -> Callable[[Tensor], Tensor]:
    """The log-density of one target: encoded points (S, D) to f (S,), without gradients.

    Args:
        fn: f of all targets, with `select`.
        row: Which of them.
    """
    fn = fn.select(torch.tensor([row]))

    def log_density(offsets: Tensor) -> Tensor:
        with torch.inference_mode():
            return fn(offsets[None])[0]

    return log_density
