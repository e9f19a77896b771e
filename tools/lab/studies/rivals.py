"""Further rivals of energy refinement, for studies; see :mod:`ebm_mmdet.apis.fitting.rivals`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ebm_mmdet.apis.fitting.rivals import moved_by
from ebm_mmdet.energy import RefinementResult
from ebm_mmdet.models.heads import BoxLogDensity, EBMBBoxHead

__all__ = ["EnergyEnsemble", "RandomNudge"]


class RandomNudge:
    """Move every box by Gaussian noise, to show that mere movement gains nothing."""

    def __init__(self, std: float, seed: int) -> None:
        self.std, self.generator = std, torch.Generator().manual_seed(seed)

    def __call__(self, fn: BoxLogDensity, y0: Tensor, **_) -> RefinementResult:
        return moved_by(self.std * torch.randn(y0.shape, generator=self.generator))


class EnergyEnsemble(nn.Module):
    """The mean log-density of several heads (a product of experts), in place of one head."""

    def __init__(self, heads: Sequence[EBMBBoxHead]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def prepare(self, neck_outputs: Sequence[Tensor]) -> list[list[Tensor]]:
        """Maps for every head; see :meth:`EBMBBoxHead.prepare`."""
        return [head.prepare(neck_outputs) for head in self.heads]

    def log_density_fn(self, feats, reference, batch_index, labels) -> _MeanLogDensity:
        """See :meth:`EBMBBoxHead.log_density_fn`."""
        return _MeanLogDensity(
            [
                head.log_density_fn(maps, reference, batch_index, labels)
                for head, maps in zip(self.heads, feats)
            ]
        )


class _MeanLogDensity:
    def __init__(self, members: Sequence[BoxLogDensity]) -> None:
        self.members, self.reference = members, members[0].reference

    def __call__(self, y: Tensor) -> Tensor:
        return torch.stack([member(y) for member in self.members]).mean(0)

    def select(self, index: Tensor) -> _MeanLogDensity:
        return _MeanLogDensity([member.select(index) for member in self.members])
