"""What an energy head has to beat in 3D, on the same features: a box regressor, a correction.

Both work in the frame of the box, along and across it, as 3D box heads do, and have the signature
of a refiner.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm_mmdet.apis.fitting.rivals import moved_by
from ebm_mmdet.energy import RefinementResult
from ebm_mmdet.models.heads import BoxLogDensity

from ...models import EBM3DRefineHead
from ...models.box_frame import turned

__all__ = ["BoxRegressor3D", "FixedOffset3D", "RegressionStep3D"]


class BoxRegressor3D(EBM3DRefineHead):
    """The pooling and the trunk of an energy head with seven outputs for each class: offsets.

    It is trained by the L1 distance on boxes drawn around the annotations from the noise with which
    the energy head is trained, each coordinate in units of the noise's middle spread, so that
    radians weigh as much as metres.

    Args:
        energy_head: config of the energy head with which it is compared.
        num_boxes: boxes around each annotation that it learns from in an iteration; by default as
            many as the energy head.
    """

    def __init__(self, energy_head: dict, num_boxes: int | None = None) -> None:
        settings = {k: v for k, v in energy_head.items() if k not in ("type", "regression")}
        outputs = 7 * energy_head["num_classes"]
        super().__init__(**{**settings, "num_classes": outputs, "class_agnostic": False})
        self.num_boxes = num_boxes
        sigmas = torch.as_tensor(energy_head["objective"]["noise"]["sigmas"]).reshape(-1, 7)
        self.register_buffer("unit", sigmas[len(sigmas) // 2].float())

    def check_label_range(self, low: int, high: int) -> None:
        """Accept any label: the outputs are coordinates of classes, not classes."""

    def evaluate(self, feats, boxes: Tensor, batch_index: Tensor, labels: Tensor) -> Tensor:
        """Zeros (N, S): a regressor has no f, which boxes that it leaves alone are asked for."""
        return boxes.new_zeros(boxes.shape[:2])

    def offsets(
        self, feats: Sequence[Tensor], boxes: Tensor, batch_index: Tensor, labels: Tensor
    ) -> Tensor:
        """Offsets (R, 7) of the object relative to the boxes (R, 7), along the sensor's axes."""
        found = self.fc_energy(self.embed(feats, boxes, batch_index)).unflatten(1, (-1, 7))
        found = found[torch.arange(len(boxes), device=boxes.device), labels]
        return turned(self.unit * found, boxes[:, 6])

    def loss(self, feats, gt_boxes, batch_index, labels, avg_factor=None) -> dict[str, Tensor]:
        """Mean L1 distance; signature of :meth:`EBM3DRefineHead.loss`."""
        number, samples = len(gt_boxes), self.num_boxes or 1 + self.objective.num_noise
        jitter, _ = self.objective.noise.sample(number, samples, device=gt_boxes.device)
        boxes = (gt_boxes[:, None] + jitter).reshape(-1, 7)
        targets = gt_boxes.repeat_interleave(samples, 0) - boxes
        index, labels = (each.repeat_interleave(samples) for each in (batch_index, labels))
        found = self.offsets(feats, boxes, index, labels)
        difference = turned(found - targets, -boxes[:, 6]) / self.unit
        return {"loss_l1": F.l1_loss(difference, torch.zeros_like(difference))}


class RegressionStep3D:
    """Move a box by the regressor's offset, or by a fraction of it."""

    def __init__(self, regressor: BoxRegressor3D, length: float) -> None:
        self.regressor, self.length = regressor, length

    @torch.no_grad()
    def __call__(self, fn: BoxLogDensity, y0: Tensor, **_) -> RefinementResult:
        offsets = self.regressor.offsets(fn.feats, fn.reference, fn.batch_index, fn.labels)
        return moved_by(self.length * offsets)


class FixedOffset3D:
    """Move every box by the same offset (7,) in its own frame, to correct a systematic error."""

    def __init__(self, offset: Tensor) -> None:
        self.offset = offset

    def __call__(self, fn: BoxLogDensity, y0: Tensor, **_) -> RefinementResult:
        return moved_by(turned(self.offset.to(y0).expand_as(y0), fn.reference[:, 6]))
