"""The log-density of an energy head as a function of encoded offsets, which is what climbs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .energy_head import EnergyHead

__all__ = ["BoxLogDensity"]


class BoxLogDensity:
    """``LogDensityFn`` of a batch of boxes: encoded offsets (N, S, D) -> f (N, S), float32.

    :meth:`EnergyHead.log_density_fn` returns it; offsets are relative to ``reference`` (N, D).
    """

    def __init__(
        self,
        head: EnergyHead,
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
        head: EnergyHead,
        feats: Sequence[Tensor],
        reference: Tensor,
        batch_index: Tensor,
        labels: Tensor,
    ) -> BoxLogDensity:
        """Build it from tensors made in any mode; autograd cannot record inference-mode tensors."""

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
        boxes = self.head.decode(offsets, self.reference[:, None, :])
        return self.head.evaluate(self.feats, boxes, self.batch_index, self.labels)

    def select(self, index: Tensor) -> BoxLogDensity:
        """The same function for a subset of its targets, ``index`` (n,) int64."""
        return type(self)(
            self.head,
            self.feats,
            self.reference[index],
            self.batch_index[index],
            self.labels[index],
        )
