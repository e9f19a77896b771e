"""Rivals of energy refinement, on the same features and the same jittered boxes.

Every rival has the signature of a refiner, so :class:`~ebm_mmdet.models.detectors.EBMDetector`
applies all of them, and rescales and clips their boxes, in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebm_mmdet.energy import RefinementResult
from ebm_mmdet.models.box_coding import decode_boxes, encode_boxes
from ebm_mmdet.models.heads import BoxLogDensity, EBMBBoxHead

__all__ = ["BoxRegressor", "EnergyEnsemble", "FixedOffset", "RandomNudge", "RegressionStep"]


class BoxRegressor(EBMBBoxHead):
    """The pooling and the trunk of an energy head with four outputs: offsets to the object.

    It is trained like most box heads, by the L1 distance in encoded coordinates, on boxes drawn
    around the annotations from the noise with which the energy head is trained.

    Args:
        energy_head: config of the energy head with which it is compared.
    """

    def __init__(self, energy_head: dict) -> None:
        settings = {key: value for key, value in energy_head.items() if key != "type"}
        super().__init__(**{**settings, "num_classes": 4, "class_agnostic": False})

    def check_labels(self, labels: Tensor) -> None:
        """Accept any label: the four outputs are coordinates, not classes."""

    def offsets(self, feats: Sequence[Tensor], boxes: Tensor, batch_index: Tensor) -> Tensor:
        """Offsets (R, 4) of the object relative to the boxes (R, 4)."""
        x, unsort = self.embed(feats, boxes, batch_index)
        return self.fc_energy(x)[unsort]

    def loss(self, feats, gt_boxes, batch_index, labels, avg_factor=None) -> dict[str, Tensor]:
        """Mean L1 distance; signature of :meth:`EBMBBoxHead.loss`."""
        number, samples = len(gt_boxes), 1 + self.objective.num_noise
        jitter, _ = self.objective.noise.sample(number, samples)
        boxes = decode_boxes(jitter, gt_boxes[:, None]).reshape(-1, 4)
        targets = encode_boxes(gt_boxes.repeat_interleave(samples, 0), boxes)
        found = self.offsets(feats, boxes, batch_index.repeat_interleave(samples))
        return {"loss_l1": F.l1_loss(found, targets)}


def _moved(offsets: Tensor) -> RefinementResult:
    steps = torch.ones(len(offsets), dtype=torch.long)
    return RefinementResult(offsets, offsets.new_zeros(len(offsets)), steps)


class RegressionStep:
    """Move a box by the regressor's offset, or by a fraction of it."""

    def __init__(self, regressor: BoxRegressor, length: float) -> None:
        self.regressor, self.length = regressor, length

    @torch.no_grad()
    def __call__(self, fn: BoxLogDensity, y0: Tensor, **_) -> RefinementResult:
        offsets = self.regressor.offsets(fn.feats, fn.reference, fn.batch_index)
        return _moved(self.length * offsets)


class FixedOffset:
    """Move every box by the same offset (4,), to correct a systematic error of the detector."""

    def __init__(self, offset: Tensor) -> None:
        self.offset = offset

    def __call__(self, fn: BoxLogDensity, y0: Tensor, **_) -> RefinementResult:
        return _moved(self.offset.to(y0).expand_as(y0))


class RandomNudge:
    """Move every box by Gaussian noise, to show that mere movement gains nothing."""

    def __init__(self, std: float, seed: int) -> None:
        self.std, self.generator = std, torch.Generator().manual_seed(seed)

    def __call__(self, fn: BoxLogDensity, y0: Tensor, **_) -> RefinementResult:
        return _moved(self.std * torch.randn(y0.shape, generator=self.generator))


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
