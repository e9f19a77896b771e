"""Errors of a predicted depth map."""

from __future__ import annotations

import numpy as np
import torch
from mmdet.registry import METRICS
from mmengine.logging import MMLogger

from .auxiliary_metric import AuxiliaryMetric, resize_to

__all__ = ["DepthMetric"]

_COLUMNS = ("abs_rel", "squared", "log10", "delta1", "delta2", "delta3")
_MANY = 0.01
"""Share of the known pixels outside of the range of which a warning is due."""


@METRICS.register_module()
class DepthMetric(AuxiliaryMetric):
    r"""The usual errors of depth d against the true depth d*, in metres.

        abs_rel = mean( |d - d*| / d* )            log10 = mean( |log10 d - log10 d*| )
        rmse    = sqrt( mean( (d - d*)² ) )        delta<j> = mean( max(d/d*, d*/d) < 1.25^j )

    Reads ``pred_depth.depth`` and ``gt_depth.depth``, both (1, H, W). The truth is brought to the
    resolution of the prediction by a nearest resize. A pixel is valid if its true depth is finite,
    positive and within ``depth_range``; the prediction is clamped to that range. Returns, under the
    prefix ``depth``, ``abs_rel``, ``rmse`` (metres), ``log10``, ``delta1``, ``delta2``, ``delta3``
    in [0, 1] and ``images``, the number of images with a valid pixel. A warning says so if more
    than one in a hundred pixels of known, positive depth is not in the range, as in the open air.

    The mean is that of Eigen et al. over all valid pixels of the set. Some later work computes each
    value for every image and takes the mean of those, which is ``average='images'``. The two differ
    if images have different numbers of valid pixels, and for the RMSE in any case.

    Images without ``gt_depth``, or without any valid pixel, are left out. If nothing is left, or a
    predicted depth is NaN, the values are NaN, with a warning.

    Args:
        depth_range: smallest and largest true depth in metres that counts, both included.
        average: ``'pixels'`` or ``'images'``.
        collect_device: mmengine's.
        prefix: mmengine's.

    Raises:
        ValueError: an argument is not as described; a truth was made with a stride that does not
            fit the prediction; or the model predicted depth for some images only.

    Source: Eigen, Puhrsch and Fergus, "Depth Map Prediction from a Single Image using a Multi-Scale
    Deep Network", NeurIPS 2014; the range of NYUv2 is 10 m.
    """

    default_prefix = "depth"
    task = "depth"
    names = ("abs_rel", "rmse", "log10", "delta1", "delta2", "delta3")

    def __init__(
        self,
        depth_range: tuple[float, float] = (1e-3, 10.0),
        average: str = "pixels",
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not 0 < depth_range[0] < depth_range[1]:
            raise ValueError(f"depth_range={depth_range} must be 0 < smallest < largest, in metres")
        if average not in ("pixels", "images"):
            raise ValueError(f"average={average!r} must be 'pixels' or 'images'")
        self.depth_range, self.average = tuple(depth_range), average

    def measure(self, prediction: dict, truth: dict) -> np.ndarray:
        """Sums over the valid pixels, their number, and that of others with a positive depth.

        (8,) float64; empty if no pixel is valid.
        """
        found = prediction["depth"].detach().cpu().double()
        true = truth["depth"].detach().cpu().double()
        true = resize_to(true, found.shape[-2:], truth.get("stride"))
        low, high = self.depth_range
        known = torch.isfinite(true) & (true > 0)
        valid = known & (true >= low) & (true <= high)
        outside = int(known.sum() - valid.sum())
        true, found = true[valid].numpy(), found[valid].clamp(low, high).numpy()
        if not true.size:
            return np.empty(0)
        ratio = np.maximum(found / true, true / found)
        error = found - true
        columns = (np.abs(error) / true, error**2, np.abs(np.log10(found / true)))
        sums = [column.sum() for column in columns]
        sums += [(ratio < 1.25**j).sum() for j in (1, 2, 3)]
        return np.array([*sums, true.size, outside], float)

    def values(self, measurements: list[np.ndarray]) -> dict[str, float]:
        """See the class."""
        *sums, outside = np.stack(measurements).T
        self._warn_of_range(outside.sum(), sums[-1].sum())
        sums = np.stack(sums, axis=1)
        if self.average == "pixels":
            sums = sums.sum(0, keepdims=True)
        means = dict(zip(_COLUMNS, (sums[:, :-1] / sums[:, -1:]).T))
        means["rmse"] = np.sqrt(means.pop("squared"))
        return {name: float(means[name].mean()) for name in self.names}

    def _warn_of_range(self, outside: float, inside: float) -> None:
        share = outside / (outside + inside)
        if share > _MANY:
            MMLogger.get_current_instance().warning(
                f"DepthMetric: {share:.0%} of the pixels with a positive depth are outside of "
                f"depth_range={self.depth_range} metres and are not measured. Is the truth in "
                "metres? Set depth_range of the metric, and of DepthTask, which clamps to its own, "
                "if the scenes are deeper."
            )
