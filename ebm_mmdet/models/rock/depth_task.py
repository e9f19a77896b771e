"""Depth of every cell of the map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import PixelData
from torch import Tensor

from .auxiliary_task import AuxiliaryTask, mean_of_existing
from .map_targets import crop_to_image, targets_of_cells

__all__ = ["DepthTask", "berhu"]


@MODELS.register_module()
class DepthTask(AuxiliaryTask):
    """Log-depth as the mean of the task's features at each cell.

        error e = mean of the features - log clamp(depth, min, max);   loss = w mean l(e)

    The mean is over all cells of the batch whose depth is known. The truth is
    ``gt_depth = PixelData(depth=(1, H, W))`` in metres; it may be absent, and pixels <= 0 or not
    finite are unknown. The prediction is ``pred_depth = PixelData(depth=(1, h, w))`` in metres, at
    the map's resolution, without the padding.

    Args:
        in_channels: C of the encoding.
        feature_channels: features that are averaged.
        loss_weight: w.
        loss: l; ``'smooth_l1'`` (threshold 1, the reference) or ``'berhu'`` (the paper).
        berhu_threshold: c of :func:`berhu`; None is a fifth of the batch's largest error.
        depth_range: (min, max) in metres.
        extra_convs: see :class:`AuxiliaryTask`, as for the remaining arguments.
        norm_cfg: likewise.
        init_cfg: likewise.

    Raises:
        ValueError: the loss has another name, or the threshold or range is not positive.
    """

    def __init__(
        self,
        in_channels: int,
        feature_channels: int = 128,
        loss_weight: float = 3.0,
        loss: str = "smooth_l1",
        berhu_threshold: float | None = None,
        depth_range: tuple[float, float] = (1e-3, 10.0),
        extra_convs: bool = True,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if loss not in ("smooth_l1", "berhu"):
            raise ValueError(f"loss={loss!r}; use 'smooth_l1' or 'berhu'")
        if berhu_threshold is not None and (loss != "berhu" or not berhu_threshold > 0):
            raise ValueError(
                f"berhu_threshold={berhu_threshold} with loss={loss!r}; give a number above 0, "
                "and only with loss='berhu'"
            )
        if not 0 < depth_range[0] < depth_range[1]:
            raise ValueError(f"depth_range={tuple(depth_range)}; expected 0 < min < max, in metres")
        super().__init__(
            in_channels, feature_channels, loss_weight, extra_convs, norm_cfg, init_cfg
        )
        self.loss_name, self.berhu_threshold = loss, berhu_threshold
        self.depth_range = tuple(depth_range)

    def predict(self, features: Tensor) -> Tensor:
        """(B, K, h, w) -> log-depth (B, 1, h, w) float32."""
        return features.float().mean(1, keepdim=True)

    def loss(self, prediction: Tensor, samples: Sequence[DetDataSample]) -> Tensor:
        """The weighted mean of l over those cells whose depth is known."""
        size = tuple(prediction.shape[-2:])
        images, maps, inside = targets_of_cells(samples, "gt_depth", ["depth"], size)
        log_depth = prediction[images].float()
        if images:
            depth = torch.stack([each for (each,) in maps]).to(log_depth)
            known = torch.stack(inside) & depth.isfinite() & (depth > 0)
        else:
            depth, known = log_depth.detach(), log_depth > torch.inf
        low, high = self.depth_range
        target = depth.where(known, 1).clamp(low, high).log()
        error = (log_depth - target).where(known, 0)
        if self.loss_name == "berhu":
            values = berhu(error, self.berhu_threshold)
        else:
            values = F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none")
        return self.loss_weight * mean_of_existing(values, known)

    def write(self, prediction: Tensor, samples: Sequence[DetDataSample]) -> None:
        """Write ``pred_depth``."""
        for sample, depth in zip(samples, prediction.float().exp()):
            sample.pred_depth = PixelData(depth=crop_to_image(depth, sample))


def berhu(error: Tensor, threshold: float | None = None) -> Tensor:
    """The reverse Huber loss of each error.

        |e| if |e| <= c, else (e² + c²) / (2 c)

    Without a threshold, c = 0.2 max |e|. It is then a constant of the gradient: if it were not, all
    other errors above c would push the largest one up, without end. With it constant, gradients
    have the sign of their errors and are 5 at most.

    Args:
        error: of any shape; those that are to be left out are 0.
        threshold: c, or None.

    Source: Laina et al., 3DV 2016 (arXiv:1606.00373), equation 2.
    """
    size = error.abs()
    if threshold is None:
        largest = size.detach().flatten().amax() if size.numel() else size.detach().sum()
        c = (0.2 * largest).clamp(min=_LEAST_THRESHOLD)
    else:
        c = torch.full((), threshold, dtype=size.dtype, device=size.device)
    return size.where(size <= c, (size.square() + c.square()) / (2 * c))


_LEAST_THRESHOLD = math.exp(-20)
"""Keeps 0 / 0 out of a batch without any error."""
