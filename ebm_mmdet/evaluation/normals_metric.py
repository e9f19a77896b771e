"""Angles between predicted and true surface normals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmdet.registry import METRICS
from torch import Tensor

from .auxiliary_metric import AuxiliaryMetric, resize_to

__all__ = ["NormalsMetric", "angles_between"]


@METRICS.register_module()
class NormalsMetric(AuxiliaryMetric):
    """Angle between the predicted and the true surface normal, over all valid pixels of the set.

    Reads ``pred_normals.normals`` (3, H, W), ``gt_normals.normals`` (3, H, W) and, if present,
    ``gt_normals.mask`` (1, H, W) bool, True where the normal is known. The truth is brought to the
    resolution of the prediction by a nearest resize. A pixel is valid if its mask is True and its
    true normal is finite and not zero. Returns, under the prefix ``normals``,

    - ``mean`` and ``median`` of the angle in degrees, in [0, 180];
    - ``within_11.25``, ``within_22.5``, ``within_30``: shares of the pixels, in [0, 1], whose angle
      is smaller than that many degrees;
    - ``images``: number of images with a valid pixel.

    A predicted vector of length zero has no direction and counts as 90 degrees. Images without
    ``gt_normals``, or without any valid pixel, are left out. If nothing is left, or a predicted
    normal is not finite, the values are NaN, with a warning. All angles are kept in memory until
    the end, 4 bytes per valid pixel at the resolution of the prediction.

    Args:
        thresholds: angles in degrees of the shares.
        collect_device: mmengine's.
        prefix: mmengine's.

    Raises:
        ValueError: a threshold is not positive; a truth was made with a stride that does not fit
            the prediction; or the model predicted normals for some images only.

    Source: Fouhey, Gupta and Hebert, "Data-Driven 3D Primitives for Single Image Understanding",
    ICCV 2013, whose statistics are over all valid pixels of the test set.
    """

    default_prefix = "normals"
    task = "normals"

    def __init__(
        self,
        thresholds: Sequence[float] = (11.25, 22.5, 30.0),
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if any(not threshold > 0 for threshold in thresholds):
            raise ValueError(f"thresholds={thresholds} must be positive angles in degrees")
        self.thresholds = tuple(thresholds)
        self.names = ("mean", "median", *(f"within_{angle:g}" for angle in self.thresholds))

    def measure(self, prediction: dict, truth: dict) -> np.ndarray:
        """Angles (n,) float32 in degrees of the valid pixels."""
        found = _array(prediction["normals"])
        shape, stride = found.shape[1:], truth.get("stride")
        true = _array(resize_to(truth["normals"].detach().cpu().double(), shape, stride))
        valid = np.isfinite(true).all(0) & (true != 0).any(0)
        if truth.get("mask") is not None:
            valid &= resize_to(truth["mask"].cpu().bool(), shape, stride)[0].numpy()
        return angles_between(found[:, valid].T, true[:, valid].T).astype(np.float32)

    def values(self, measurements: list[np.ndarray]) -> dict[str, float]:
        """See the class."""
        angles = np.concatenate(measurements)
        shares = [float((angles < threshold).mean()) for threshold in self.thresholds]
        mean = float(angles.mean(dtype=np.float64))
        return dict(zip(self.names, (mean, float(np.median(angles)), *shares)))


def angles_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Angles in degrees between vectors, exact for small angles too.

        angle = atan2( |a x b|, a . b )

    Args:
        first: (n, 3) vectors of any length; those of length zero give 90 degrees.
        second: (n, 3).

    Returns:
        (n,) in [0, 180]; NaN for vectors that are not finite.
    """
    sine = np.linalg.norm(np.cross(first, second), axis=-1)
    cosine = (first * second).sum(-1)
    angles = np.degrees(np.arctan2(sine, cosine))
    return np.where((sine == 0) & (cosine == 0), 90.0, angles)


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().double().numpy()
