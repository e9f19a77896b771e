"""What the metrics of image regression share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from torch import Tensor

__all__ = ["TargetMetric", "as_numpy", "finite_field"]


class TargetMetric(BaseMetric):
    """What both metrics share: finite arrays out of data samples, and the targets' periods."""

    def _periods(self) -> Sequence[float | None] | None:
        return self._target_meta().get("periods")

    def _target_meta(self) -> dict:
        return (self.dataset_meta or {}).get("target", {})

    def _no_label(self) -> None:
        MMLogger.get_current_instance().warning(
            f"{type(self).__name__}: no image of the data set has a label, so nothing is measured."
        )


def as_numpy(value) -> np.ndarray:
    """A tensor or sequence as float64."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value, float)


def finite_field(sample: dict, key: str, expected: str = "finite values") -> np.ndarray:
    """A field of a data sample as float64; it must be there and finite."""
    name = sample.get("img_path") or f"number {sample.get('sample_idx')}"
    if sample.get(key) is None:
        raise ValueError(f"image {name} has no {key}; the model has to predict it")
    value = as_numpy(sample[key])
    allowed = np.isfinite(value) if expected == "finite values" else value < np.inf
    if not allowed.all():
        raise ValueError(
            f"{key} of image {name} is {value.ravel()[:8]}, expected {expected}. If it is a "
            "prediction, the training has diverged: lower the learning rate, or start again from "
            "an earlier checkpoint"
        )
    return value
