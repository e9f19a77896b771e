"""The log-density of a batch of boxes as a function of encoded offsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..box_coding import decode_boxes

if TYPE_CHECKING:
    from .ebm_bbox_head import EBMBBoxHead

__all__ = ["BoxLogDensity"]


class BoxLogDensity:
    """``LogDensityFn`` of a batch of boxes: encoded offsets (N, S, 4) -> f (N, S), float32.

    Made by :meth:`EBMBBoxHead.log_density_fn`; offsets are relative to ``reference``.
    """

    def __init__(
        self,
        head: EBMBBoxHead,
        feats: Sequence[Tensor],
        reference: Tensor,
        batch_index: Tensor,
        labels: Tensor,
    ) -> None:
        self.head, self.feats = head, feats
        self.reference, self.batch_index, self.labels = reference, batch_index, labels

    @classmethod
    def recordable(
        cls,
        head: EBMBBoxHead,
        feats: Sequence[Tensor],
        reference: Tensor,
        batch_index: Tensor,
        labels: Tensor,
    ) -> BoxLogDensity:
        """The same of tensors made in any mode: autograd cannot record those of inference mode."""

        def usable(x: Tensor) -> Tensor:
            return x.clone() if x.is_inference() else x

        with torch.inference_mode(False):
            return cls(
                head,
                [usable(feat) for feat in feats],
                usable(reference).detach().float(),
                usable(batch_index),
                usable(labels),
            )

    def __call__(self, offsets: Tensor) -> Tensor:
        boxes = decode_boxes(offsets, self.reference[:, None, :])
        return self.head.log_density(self.feats, boxes, self.batch_index, self.labels)

    def select(self, index: Tensor) -> BoxLogDensity:
        """The same function for a subset of its targets, ``index`` (n,) int64."""
        return type(self)(
            self.head,
            self.feats,
            self.reference[index],
            self.batch_index[index],
            self.labels[index],
        )
