"""What is known and predicted about one image: a vector of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

__all__ = ["RegressionDataSample"]


class RegressionDataSample(BaseDataElement):
    """Label and prediction of one image; everything is in the units of the label, D numbers.

    Data fields, each absent if it is not known:

    ==================  =========  ================================================================
    ``gt_target``       (D,)       the label, float32
    ``pred_target``     (D,)       the point prediction: mean, median or mode
    ``pred_std``        (D,)       standard deviation of the predicted density, about its mean
    ``pred_interval``   (L, 2, D)  lower and upper limits of the central intervals whose levels are
                                   in the metainfo ``interval_levels``
    ``pred_samples``    (S, D)     samples of the predicted density
    ``gt_log_prob``     ()         log-density at the label, in nats, normalised over the declared
                                   ranges; of a dequantised label its mean over the unit cell
    ``gt_log_mass``     ()         log-probability of the unit cell around a dequantised label
    ``log_z``           ()         log ∫ exp f over the declared ranges, in standardised units; only
                                   of a density known up to a constant
    ``ess``             ()         effective number of samples behind ``log_z``; absent where that
                                   was computed on a grid
    ==================  =========  ================================================================

    Limits of a periodic coordinate are not wrapped: lower ≤ upper holds, one of them may lie
    outside the range, and a value y is inside if ``(y - lower) mod period <= upper - lower``.

    Metainfo: ``img_path``, ``sample_idx``, ``ori_shape``, ``img_shape``, ``flip``, ``group``,
    ``oracle_log_prob``, and ``interval_levels`` after prediction.
    """

    def set_gt_target(self, value: Tensor | np.ndarray | Sequence[float] | float) -> None:
        """Set the label, a number or D of them, in its own units; integers become float32.

        Raises:
            ValueError: the label has more than one dimension, or is not finite.
        """
        target = torch.atleast_1d(torch.as_tensor(value)).float()
        if target.dim() != 1 or len(target) == 0 or not target.isfinite().all():
            raise ValueError(
                f"the label of {self.get('img_path', 'an image')} is {value}; expected one finite "
                "number or a vector of them. Correct the label or remove the image."
            )
        self.gt_target = target
