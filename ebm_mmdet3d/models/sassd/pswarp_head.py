"""Part-sensitive warping: scores of boxes from the features at the boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet3d.registry import MODELS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.model import BaseModule
from torch import Tensor, nn

from ebm_ops import rotated_grid_pool

__all__ = ["PSWarpHead"]


@MODELS.register_module()
class PSWarpHead(BaseModule):
    """Scores a box by the mean of K = 4 x 7 maps, each sampled at its own point of the box.

        logit(y) = 1/K sum_k map_k(position of grid point k in y),   maps = convs(bev)

    with the grid of :func:`ebm_ops.rotated_grid_pool`, box edges included. Boxes are not detached,
    so the score also trains the boxes, as in the released code. A box that is not finite
    has logit 0.

    Args:
        in_channels: channels of the bird's-eye-view map.
        grid_size: numbers of points across the width and along the length.
        pixel_offset: see :func:`ebm_ops.rotated_grid_pool`.
        pos_iou: a box is positive if its 3D IoU with an object is at least this.
        loss_cls: classification loss of logits (N, 1), class 0 or background.
        init_cfg: mmengine's.

    Source: He et al., CVPR 2020, section 3.4, and its released code.
    """

    def __init__(
        self,
        in_channels: int = 256,
        grid_size: Sequence[int] = (4, 7),
        pixel_offset: float = 0.0,
        pos_iou: float = 0.7,
        loss_cls: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.grid_size = (int(grid_size[0]), int(grid_size[1]))
        self.pixel_offset, self.pos_iou = pixel_offset, pos_iou
        parts = self.grid_size[0] * self.grid_size[1]
        self.convs = nn.Sequential(
            nn.Conv2d(in_channels, parts, 3, padding=1, bias=False),
            nn.BatchNorm2d(parts, eps=1e-3, momentum=0.01),
            nn.ReLU(inplace=True),
            nn.Conv2d(parts, parts, 1, bias=False),
        )
        self.loss_cls = MODELS.build(
            loss_cls or dict(type="mmdet.FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25)
        )

    def forward(
        self,
        bev: Tensor,
        boxes: Tensor,
        batch_index: Tensor,
        origin: Sequence[float],
        cell_size: float,
    ) -> Tensor:
        """Logits of boxes.

        Args:
            bev: (B, C, H, W).
            boxes: (N, 7) ``(x, y, z, l, w, h, yaw)``, metres and radians; z and h are not used.
            batch_index: (N,) int64, frame of each box.
            origin: position (x0, y0) of the map's first cell in metres.
            cell_size: metres per cell of the map.

        Returns:
            (N,) float32.
        """
        maps = self.convs(bev)
        with torch.autocast(bev.device.type, enabled=False):
            pooled = rotated_grid_pool(
                maps.float(),
                boxes[:, [0, 1, 3, 4, 6]].float(),
                batch_index,
                self.grid_size,
                origin=tuple(origin),
                cell_size=cell_size,
                pixel_offset=self.pixel_offset,
            )
            return pooled.flatten(2).diagonal(dim1=1, dim2=2).mean(1)

    def loss(
        self, logits: Tensor, boxes: Tensor, batch_index: Tensor, gt_boxes: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """``loss_rescore``: the sum over boxes, divided by positives (at least 1) and frames.

        Args:
            logits: (N,).
            boxes: (N, 7) that were scored.
            batch_index: (N,) int64.
            gt_boxes: (n, 7) of each frame.
        """
        if not len(logits):
            return {"loss_rescore": logits.sum()}
        positive = self.positives(boxes.detach(), batch_index, gt_boxes)
        factor = len(gt_boxes) * max(int(positive.sum()), 1)
        loss = self.loss_cls(logits.unsqueeze(1), (~positive).long(), avg_factor=factor)
        return {"loss_rescore": loss}

    def positives(self, boxes: Tensor, batch_index: Tensor, gt_boxes: Sequence[Tensor]) -> Tensor:
        """(N,) bool: boxes that overlap an object of their frame by ``pos_iou`` or more."""
        positive = torch.zeros_like(batch_index, dtype=torch.bool)
        for frame, objects in enumerate(gt_boxes):
            rows = (batch_index == frame).nonzero().squeeze(1)
            if len(rows) and len(objects):
                overlaps = LiDARInstance3DBoxes.overlaps(
                    LiDARInstance3DBoxes(boxes[rows]), LiDARInstance3DBoxes(objects)
                )
                positive[rows] = (overlaps >= self.pos_iou).any(1)
        return positive
