"""Calibrated intervals of the seven numbers of a 3D box, as a part of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import ClassVar

import torch
from mmdet3d.structures import Det3DDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

__all__ = ["DIMENSIONS", "SPREADS_3D", "DimIntervals", "dim_spread", "wrapped"]

DIMENSIONS = ("x", "y", "z", "l", "w", "h", "yaw")
SPREADS_3D = ("std", "metres")
MIN_SPREAD = 1e-4
"""Metres or radians; a spread of zero, as from one sample, has no multiple."""


def wrapped(angle: Tensor, period: float = 2 * math.pi) -> Tensor:
    """Angles in [-period / 2, period / 2), in radians, any shape."""
    return torch.remainder(angle + 0.5 * period, period) - 0.5 * period


def dim_spread(found: InstanceData, kind: str) -> Tensor:
    """Spread of each number of a box.

    Args:
        found: ``bboxes_3d`` (n), and what ``kind`` needs.
        kind: ``'std'``: the standard deviation, from ``box_std`` (n, 7); ``'metres'``: 1, one metre
            and one radian.

    Returns:
        (n, 7) float32, 1e-4 at least; infinite where it would not be finite.

    Raises:
        ValueError: the detections lack what ``kind`` needs.
    """
    boxes = found.bboxes_3d.tensor
    if kind == "metres":
        return boxes.new_ones(len(boxes), 7, dtype=torch.float32)
    if "box_std" not in found:
        raise ValueError(
            f"intervals from {kind!r} need box_std (n, 7), and detections have "
            f"{sorted(found.keys())}; give the model an ImportanceMeanRefiner, or calibrate with "
            "another spread: metres"
        )
    spread = found.box_std.float().clamp(min=MIN_SPREAD)
    return torch.where(spread.isfinite(), spread, torch.inf)


@dataclass
class DimIntervals:
    """Adds calibrated intervals to 3D detections.

    The interval of a number is that of the detection ± ``bounds`` times ``scale`` times its spread
    (:func:`dim_spread`). ``bounds`` depend on the class.
    :func:`ebm_mmdet3d.interval_calibration.calibrate_3d` makes them.

    Detections gain ``dim_interval`` (n, 7, 2) float32: lower and upper ends of x, y, z, l, w, h in
    metres and yaw in radians, as ``bboxes_3d`` has them. No size is below zero. The ends of yaw are
    those of the detection plus and minus at most half of ``period`` and are not wrapped.
    """

    attribute: ClassVar[str] = "dim_intervals"
    """Of a model that applies them itself, and entry of a checkpoint's ``meta``."""
    adds: ClassVar[str] = "dim_interval"

    level: float
    """Probability that an interval holds; of all seven at once, if ``joint``."""
    joint: bool
    spread: str
    """Kind of :func:`dim_spread`."""
    bounds: Tensor
    """(classes + 1, 7 or 1) float32; the last row is for labels without a class."""
    scale: tuple[float, ...] = (1.0,) * 7
    """What makes the seven comparable where one bound is for all."""
    period: float = 2 * math.pi
    """Of yaw: π for objects whose front does not matter."""
    facts: dict = field(default_factory=dict)
    """How it was calibrated; plain values."""

    def __post_init__(self) -> None:
        if self.spread not in SPREADS_3D:
            raise ValueError(f"spread={self.spread!r}; use one of {', '.join(SPREADS_3D)}")
        columns = 1 if self.joint else 7
        if self.bounds.dim() != 2 or self.bounds.shape[1] != columns or len(self.scale) != 7:
            raise ValueError(
                f"bounds have the shape {tuple(self.bounds.shape)} and {len(self.scale)} scales; "
                f"expected (classes + 1, {columns}) and 7 for joint={self.joint}"
            )

    def add_to(self, sample: Det3DDataSample) -> None:
        """Give the ``pred_instances_3d`` of a frame their intervals, in place.

        Raises:
            ValueError: detections lack what the spread needs.
        """
        found = sample.pred_instances_3d
        boxes = found.bboxes_3d.tensor[:, :7].float()
        spread = dim_spread(found, self.spread).to(boxes) * boxes.new_tensor(self.scale)
        bounds = self.bounds.to(boxes)
        labels = found.labels_3d.long()
        row = torch.where((labels >= 0) & (labels < len(bounds) - 1), labels, len(bounds) - 1)
        # 0 x inf: nothing is known where a spread is not finite.
        reach = torch.where(spread.isfinite(), bounds[row] * spread, torch.inf)
        most = boxes.new_tensor([torch.inf] * 6 + [0.5 * self.period])
        reach = torch.minimum(reach, most)
        floor = boxes.new_tensor([-torch.inf] * 3 + [0.0] * 3 + [-torch.inf])
        low = torch.maximum(boxes - reach, torch.minimum(floor, boxes))
        found.dim_interval = torch.stack((low, boxes + reach), dim=-1)

    def __call__(self, module: nn.Module, inputs: tuple, outputs: object) -> None:
        """Forward hook of a detector: adds intervals to its predictions, and to nothing else."""
        for sample in outputs if isinstance(outputs, (list, tuple)) else ():
            if isinstance(sample, Det3DDataSample) and "pred_instances_3d" in sample:
                self.add_to(sample)

    def to_meta(self) -> dict:
        """Plain values, for the ``meta`` of a checkpoint."""
        return {**asdict(self), "bounds": self.bounds.tolist(), "scale": list(self.scale)}

    @classmethod
    def from_meta(cls, meta: Mapping) -> DimIntervals | None:
        """Those in the ``meta`` of a checkpoint, or None.

        Raises:
            ValueError: they are of another make than this version writes.
        """
        stored = meta.get(cls.attribute)
        if stored is None:
            return None
        try:
            values = {**stored, "bounds": torch.tensor(stored["bounds"], dtype=torch.float32)}
            return cls(**{**values, "scale": tuple(stored["scale"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"the checkpoint's {cls.attribute} cannot be read ({error}); calibrate it again"
            ) from error
