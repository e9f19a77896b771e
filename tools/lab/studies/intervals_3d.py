"""Boxes in 3D as the study of intervals needs them; needs mmdet3d."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from mmdet.registry import TASK_UTILS
from mmdet3d.registry import DATASETS
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ebm_mmdet.apis import load_detector
from ebm_mmdet.apis.calibration_run import check_classes
from ebm_mmdet3d.apis.head_settings import spread_3d
from ebm_mmdet3d.apis.interval_calibration import fit_dim_intervals
from ebm_mmdet3d.apis.matched_dims import MatchedDims, matched_dims
from ebm_mmdet3d.models import EBM3DDetector
from ebm_mmdet3d.models.detectors.dim_intervals import (
    DIMENSIONS,
    SPREADS_3D,
    DimIntervals,
    wrapped,
)

from .interval_boxes import FINEST_GROUP, POOLED
from .replay import Replay

__all__ = ["LidarBoxes", "SizedDims", "lidar_dataset", "models_in_3d"]

SAMPLES = 32


class SizedDims(NamedTuple):
    """:class:`~ebm_mmdet3d.apis.matched_dims.MatchedDims` with the sizes of the boxes."""

    residual: Tensor
    """(n, 7) truth minus detection, of x, y, z, l, w, h, yaw, in metres and radians."""
    spread: Tensor
    """(n, 7)."""
    labels: Tensor
    """(n,) int64."""
    image: Tensor
    """(n,) int64, position of the frame."""
    sizes: Tensor
    """(n, 3) l, w, h of the detections."""
    large: Tensor
    """(n,) int64: 1 for a volume above the median of all."""
    kind: str
    """Kind of ``spread``."""


class LidarBoxes:
    """The seven numbers of boxes in 3D; see :class:`.interval_boxes.BoxKind`.

    Args:
        undirected: yaw counts modulo π.
    """

    spreads = SPREADS_3D
    groups: ClassVar = {"small": "smaller half", "large": "larger half"}
    units: ClassVar = {
        f"width_{name}": f"{name}, {'rad' if name == 'yaw' else 'm'}" for name in DIMENSIONS
    }

    def __init__(self, undirected: bool = False) -> None:
        self.period = math.pi if undirected else 2 * math.pi

    def num_classes(self, model: nn.Module, dataset: Sequence) -> int:
        return len(dataset.metainfo["classes"])

    def match(self, model: Replay, dataset: Sequence, level: float, spread: str) -> SizedDims:
        dims = matched_dims(model, dataset, spread, period=self.period)
        model.position = 0
        sizes = matched_dims(_StatesItsSize(model), dataset, "std").spread[:, 3:6]
        volume = sizes.prod(1)
        large = volume > volume.median() if len(volume) else volume > 0
        return SizedDims(*dims[:-1], sizes, large.long(), kind=dims.kind)

    def ways(self, num_classes: int) -> dict[str, dict]:
        several = {"by class": dict(min_count=FINEST_GROUP)} if num_classes > 1 else {}
        return {
            "one for all": dict(min_count=POOLED),
            **several,
            "by class and size": dict(min_count=FINEST_GROUP, by_size=True),
            "one for all, by frame": dict(min_count=POOLED, by_image=True),
            "joint": dict(min_count=POOLED, joint=True),
        }

    def fit(
        self,
        found: SizedDims,
        num_classes: int,
        level: float,
        by_size: bool = False,
        **options,
    ) -> DimIntervals:
        labels = _labels(found, by_size)
        dims = MatchedDims(found.residual, found.spread, labels, found.image, found.kind)
        number = 2 * num_classes if by_size else num_classes
        return fit_dim_intervals(dims, number, level, period=self.period, **options)

    def reach(
        self, intervals: DimIntervals, found: SizedDims, by_size: bool = False, **options
    ) -> Tensor:
        # Where a box is does not matter to its intervals.
        boxes = torch.zeros_like(found.residual)
        boxes[:, 3:6] = found.sizes
        sample = Det3DDataSample()
        sample.pred_instances_3d = InstanceData(
            bboxes_3d=LiDARInstance3DBoxes(boxes),
            labels_3d=_labels(found, by_size),
            box_std=found.spread,
        )
        intervals.add_to(sample)
        low, high = sample.pred_instances_3d.dim_interval.unbind(-1)
        return torch.stack((boxes - low, high - boxes), dim=-1)

    def gaussian(self, z: float, found: SizedDims) -> Tensor:
        bounds = torch.full((1, 7), z)
        return self.reach(DimIntervals(0.5, False, found.kind, bounds, period=self.period), found)

    def members(self, found: SizedDims) -> dict[str, Tensor]:
        return dict(small=found.large == 0, large=found.large == 1)

    def widths(self, found: SizedDims, reach: Tensor) -> dict[str, float]:
        return dict(zip(self.units, reach.sum(-1).mean(0).tolist()))


def _labels(found: SizedDims, by_size: bool) -> Tensor:
    return 2 * found.labels + found.large if by_size else found.labels


class _StatesItsSize:
    """The same detections with their sizes as their spread, which is kept for those that match."""

    def __init__(self, model: Replay) -> None:
        self.model = model

    def test_step(self, data: dict) -> list[Det3DDataSample]:
        (sample,) = self.model.test_step(data)
        found = sample.pred_instances_3d
        found.box_std = found.bboxes_3d.tensor[:, :7].float().abs()
        return [sample]


def lidar_dataset(cfg: Config) -> Sequence:
    """The test data set of a config of mmdet3d."""
    init_default_scope("mmdet3d")
    return DATASETS.build(cfg.test_dataloader.dataset)


def models_in_3d(
    cfg: Config,
    checkpoint: str | Path,
    dataset: Sequence,
    boxes: LidarBoxes,
    say: Callable[[str], None] = print,
) -> Iterator[tuple[str, nn.Module | Replay]]:
    """The model of a checkpoint and, if it has an energy head, what else this head can give.

    - ``detector``: its own boxes.
    - ``energy head``: boxes of the config's refiner.
    - ``energy head, 32 samples``: mean and standard deviation of samples around the detection
      (``ImportanceMeanRefiner``), drawn as wide as the detector's errors on these frames are. They
      are the same for every half, so that detections of both halves stay exchangeable.

    Args:
        cfg: config of a detector of mmdet3d, with an energy head or without.
        checkpoint: its checkpoint.
        dataset: of :func:`lidar_dataset`.
        boxes: their kind.
        say: receives lines.

    Yields:
        Name and model in eval mode; the model is the same object each time, changed in between.

    Raises:
        CheckpointError: the checkpoint does not fit.
        ValueError: a label is of another class to the detector than to the data set.
    """
    model = load_detector(cfg, checkpoint)
    check_classes(model, dataset, merged=True)
    if not isinstance(model, EBM3DDetector):
        yield "", model
        return
    refiner, model.refiner = model.refiner, None
    detector = Replay(model)
    residual = matched_dims(detector, dataset, "metres", period=boxes.period).residual
    detector.position = 0
    yield "detector", detector
    if refiner is not None:
        model.refiner = refiner
        yield "energy head", model
    residual[:, 6] = wrapped(residual[:, 6], math.pi)
    std = spread_3d(residual)
    name = f"energy head, {SAMPLES} samples"
    if std is None:
        say(f"without {name}: {len(residual)} detections match, too few to tell their errors")
        return
    # Samples are drawn around every box.
    prior, model.min_score = dict(std=std, scale=1.0), 0.0
    settings = dict(type="ImportanceMeanRefiner", prior=prior, num_samples=SAMPLES)
    model.refiner = TASK_UTILS.build(settings)
    yield name, model
