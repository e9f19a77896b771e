"""What an energy head has to beat, on the same features: a box regressor, a constant correction.

Both have the signature of a refiner, so :class:`~ebm_mmdet.models.detectors.EBMDetector` applies
them, and rescales and clips their boxes, as it does with energy refinement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...energy import RefinementResult
from ...models.box_coding import decode_boxes, encode_boxes
from ...models.heads import BoxLogDensity, EBMBBoxHead

__all__ = ["BoxRegressor", "FixedOffset", "RegressionStep", "moved_by", "rival_boxes"]

_DISTANCES = {"l1": F.l1_loss, "l2": F.mse_loss}
RIVAL_SHARE = 0.25
"""Time of a rival's iteration, in those of the energy head, which is what a fit is for."""


class BoxRegressor(EBMBBoxHead):
    """The pooling and the trunk of an energy head with four outputs: offsets to the object.

    It is trained like most box heads, by the L1 distance in encoded coordinates, on boxes drawn
    around the annotations from the noise with which the energy head is trained. By the squared
    distance it learns the mean of the boxes that an object may have, where L1 learns a median.

    Args:
        energy_head: config of the energy head with which it is compared.
        num_boxes: boxes around each annotation that it learns from in an iteration; by default as
            many as the energy head. The time of an iteration is proportional to it.
        distance: ``'l1'``, or ``'l2'`` for the squared one.

    Raises:
        ValueError: ``distance`` is another one.
    """

    num_outputs = 4

    def __init__(
        self, energy_head: dict, num_boxes: int | None = None, distance: str = "l1"
    ) -> None:
        if distance not in _DISTANCES:
            raise ValueError(f"distance={distance!r}; use one of {', '.join(_DISTANCES)}")
        settings = {k: v for k, v in energy_head.items() if k not in ("type", "regression")}
        super().__init__(**{**settings, "num_classes": self.num_outputs, "class_agnostic": False})
        self.num_boxes, self.distance = num_boxes, distance

    def check_label_range(self, low: int, high: int) -> None:
        """Accept any label: the outputs are coordinates, not classes."""

    def evaluate(self, feats, boxes: Tensor, batch_index: Tensor, labels: Tensor) -> Tensor:
        """Zeros (N, S): a regressor has no f, which boxes that it leaves alone are asked for."""
        return boxes.new_zeros(boxes.shape[:2])

    def offsets(self, feats: Sequence[Tensor], boxes: Tensor, batch_index: Tensor) -> Tensor:
        """Offsets (R, 4) of the object relative to the boxes (R, 4)."""
        return self.fc_energy(self.embed(feats, boxes, batch_index))

    def jittered(self, gt_boxes: Tensor, batch_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (R, 4) around the annotations (N, 4), their annotations (R, 4) and images (R,)."""
        number, samples = len(gt_boxes), self.num_boxes or 1 + self.objective.num_noise
        jitter, _ = self.objective.noise.sample(number, samples, device=gt_boxes.device)
        boxes = decode_boxes(jitter, gt_boxes[:, None]).reshape(-1, 4)
        truth = gt_boxes.repeat_interleave(samples, 0)
        return boxes, truth, batch_index.repeat_interleave(samples)

    def loss(self, feats, gt_boxes, batch_index, labels, avg_factor=None) -> dict[str, Tensor]:
        """Mean distance of a coordinate; signature of :meth:`EBMBBoxHead.loss`."""
        boxes, truth, images = self.jittered(gt_boxes, batch_index)
        found = self.offsets(feats, boxes, images)
        distance = _DISTANCES[self.distance]
        return {f"loss_{self.distance}": distance(found, encode_boxes(truth, boxes))}


def rival_boxes(energy_head: Mapping) -> int:
    """``num_boxes`` of a regressor that takes ``RIVAL_SHARE`` of the energy head's time.

    Args:
        energy_head: config of the energy head, trained by NCE.
    """
    return max(round(RIVAL_SHARE * (1 + energy_head["objective"]["num_noise"])), 1)


def moved_by(offsets: Tensor) -> RefinementResult:
    """The result of a refiner that moves boxes by offsets (N, 4) and knows no f."""
    steps = torch.ones(len(offsets), dtype=torch.long, device=offsets.device)
    return RefinementResult(offsets, offsets.new_zeros(len(offsets)), steps)


class RegressionStep:
    """Move a box by the regressor's offset, or by a fraction of it, once or several times.

    Args:
        regressor: the trained regressor.
        length: share of the offset that a step goes.
        rounds: number of steps; each asks the regressor from where the one before ended.
    """

    def __init__(self, regressor: BoxRegressor, length: float, rounds: int = 1) -> None:
        self.regressor, self.length, self.rounds = regressor, length, rounds

    @torch.no_grad()
    def __call__(self, fn: BoxLogDensity, y0: Tensor, **_) -> RefinementResult:
        boxes = fn.reference
        for _ in range(self.rounds - 1):
            boxes = decode_boxes(self._step(fn, boxes), boxes)
        step = self._step(fn, boxes)
        if self.rounds > 1:
            step = encode_boxes(decode_boxes(step, boxes), fn.reference)
        return moved_by(step)

    def _step(self, fn: BoxLogDensity, boxes: Tensor) -> Tensor:
        return self.length * self.regressor.offsets(fn.feats, boxes, fn.batch_index)


class FixedOffset:
    """Move every box by the same offset (4,), to correct a systematic error of the detector."""

    def __init__(self, offset: Tensor) -> None:
        self.offset = offset

    def __call__(self, fn: BoxLogDensity, y0: Tensor, **_) -> RefinementResult:
        return moved_by(self.offset.to(y0).expand_as(y0))
