"""Box coder with one delta, and hence one variance, for each of the four sides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.models.task_modules.coders import BaseBBoxCoder
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import HorizontalBoxes, get_box_tensor
from torch import Tensor

__all__ = ["DeltaXYXYBBoxCoder"]

_MIN_SIZE = 1.0
"""Smallest size (pixels) of a proposal, because targets of a sliver would be unbounded."""


@TASK_UTILS.register_module()
class DeltaXYXYBBoxCoder(BaseBBoxCoder):
    """Deltas are the shifts of the four sides, in units of the proposal's size.

        t = ((g - p) / (w, h, w, h) - means) / stds,   p, g = (x1, y1, x2, y2)

    with (w, h) the size of the proposal p, at least one pixel. A prediction whose sides are in the
    wrong order becomes a box without extent, halfway between them.

    Args:
        target_means: means of the shifts, in the order x1, y1, x2, y2.
        target_stds: their standard deviations, in the same order.
        clip_border: clip decoded boxes to the image.
        max_shift: larger shifts (in units of the proposal's size) are clamped to this.
        use_box_type: mmdet's.

    Raises:
        ValueError: a standard deviation is not positive.

    Source: He et al., CVPR 2019 (arXiv:1809.08545), sec. 3.1; stds of 0.1 as in its code.
    """

    def __init__(
        self,
        target_means: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        target_stds: Sequence[float] = (0.1, 0.1, 0.1, 0.1),
        clip_border: bool = True,
        max_shift: float = 1000 / 16,
        use_box_type: bool = False,
    ) -> None:
        super().__init__(use_box_type=use_box_type)
        if not all(std > 0 for std in target_stds):
            raise ValueError(f"target_stds={target_stds!r} must be positive")
        self.means, self.stds = tuple(target_means), tuple(target_stds)
        self.clip_border, self.max_shift = clip_border, max_shift

    def pixels_per_delta(self, bboxes: Tensor) -> Tensor:
        """Pixels by which each side moves per unit of its delta: stds (w, h, w, h).

        Args:
            bboxes: (..., 4) proposals, tensor or box type.

        Returns:
            (..., 4) in pixels, positive.
        """
        bboxes = get_box_tensor(bboxes).float()
        size = (bboxes[..., 2:] - bboxes[..., :2]).clamp(min=_MIN_SIZE)
        return torch.cat((size, size), -1) * bboxes.new_tensor(self.stds)

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """(n, 4) proposals and (n, 4) boxes, tensors or box types -> (n, 4) deltas, float32."""
        bboxes, gt_bboxes = get_box_tensor(bboxes).float(), get_box_tensor(gt_bboxes).float()
        means = bboxes.new_tensor(self.means) / bboxes.new_tensor(self.stds)
        return (gt_bboxes - bboxes) / self.pixels_per_delta(bboxes) - means

    def decode(
        self,
        bboxes: Tensor,
        pred_bboxes: Tensor,
        max_shape: Sequence[int] | None = None,
    ) -> Tensor | HorizontalBoxes:
        """Move the sides of proposals.

        Args:
            bboxes: (n, 4) proposals, tensor or box type.
            pred_bboxes: (n, 4) deltas, or (n, C * 4) for C boxes of each proposal.
            max_shape: (H, W) of the image, for clipping.

        Returns:
            Boxes (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2, float32, in the shape of
            ``pred_bboxes``; a box type if so configured, which needs (n, 4).
        """
        bboxes = get_box_tensor(bboxes).float().unsqueeze(1)
        deltas = pred_bboxes.float().view(len(pred_bboxes), pred_bboxes.shape[1] // 4, 4)
        stds = bboxes.new_tensor(self.stds)
        shifts = deltas * stds + bboxes.new_tensor(self.means)
        shifts = shifts.clamp(-self.max_shift, self.max_shift)
        decoded = bboxes + shifts * (self.pixels_per_delta(bboxes) / stds)
        if self.clip_border and max_shape is not None:
            height, width = max_shape[:2]
            limit = decoded.new_tensor([width, height, width, height])
            decoded = decoded.clamp(min=0).minimum(limit)
        low, high = decoded[..., :2], decoded[..., 2:]
        middle = 0.5 * (low + high)
        decoded = torch.cat((low.minimum(middle), high.maximum(middle)), -1)
        decoded = decoded.view(pred_bboxes.shape)
        return HorizontalBoxes(decoded, clone=False) if self.use_box_type else decoded
