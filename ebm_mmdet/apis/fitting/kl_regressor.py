"""A regressor with KL-Loss on the features of an energy head: a Gaussian for each side."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...models.box_coding import encode_boxes
from ...models.losses import KLLoss
from ...models.side_uncertainty import side_lengths
from ...models.task_modules import DeltaXYXYBBoxCoder
from .rivals import BoxRegressor

__all__ = ["KLRegressor"]


class KLRegressor(BoxRegressor):
    """The regressor of KL-Loss on the features of an energy head: each side has a mean and a σ.

    Boxes and batches are those of :class:`BoxRegressor`; coordinates, loss and limits of the
    variances are those of ``configs/_base_/kl_recipe.py``.

    Args:
        energy_head: config of the energy head with which it is compared.
        num_boxes: see :class:`BoxRegressor`.

    Source: He et al., CVPR 2019 (arXiv:1809.08545), eq. 9 and eq. 10.
    """

    num_outputs = 8

    def __init__(self, energy_head: dict, num_boxes: int | None = None) -> None:
        super().__init__(energy_head, num_boxes)
        self.coder = DeltaXYXYBBoxCoder(clip_border=False)
        self.kl_loss = KLLoss(form="smooth", alpha_limits=(-10.0, 10.0))

    def loss(self, feats, gt_boxes, batch_index, labels, avg_factor=None) -> dict[str, Tensor]:
        """Mean loss of the sides; signature of :meth:`EBMBBoxHead.loss`."""
        boxes, truth, images = self.jittered(gt_boxes, batch_index)
        delta, alpha = super().offsets(feats, boxes, images).chunk(2, dim=1)
        return {"loss_kl": self.kl_loss(delta, self.coder.encode(boxes, truth), alpha)}

    def sides(
        self, feats: Sequence[Tensor], boxes: Tensor, batch_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Where the sides of the object are, given boxes around it.

        Args:
            feats: what ``prepare`` returned.
            boxes: (R, 4) in pixels of the network's input.
            batch_index: (R,) int64.

        Returns:
            Means (R, 4), x1, y1, x2, y2, and standard deviations (R, 4) in pixels.
        """
        delta, alpha = super().offsets(feats, boxes, batch_index).chunk(2, dim=1)
        alpha = alpha.float().clamp(*self.kl_loss.alpha_limits)
        std = self.coder.pixels_per_delta(boxes) * (0.5 * alpha).exp()
        return self.coder.decode(boxes, delta.float()), std

    def offsets(self, feats: Sequence[Tensor], boxes: Tensor, batch_index: Tensor) -> Tensor:
        """Offsets (R, 4) of the mean in encoded coordinates."""
        return encode_boxes(self.sides(feats, boxes, batch_index)[0], boxes)

    def evidence(
        self, feats: Sequence[Tensor], boxes: Tensor, batch_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the Gaussian says against boxes, asked from these boxes; larger is worse.

        Returns:
            (R,) negative log-likelihood of the sides in units of the box's size, and (R,) the
            log-ratio of mean and box, half the squared distance in standard deviations.
        """
        mean, std = self.sides(feats, boxes, batch_index)
        ratio = 0.5 * ((boxes - mean) / std).square().sum(1)
        return ratio + (std / side_lengths(boxes)).log().sum(1), ratio
