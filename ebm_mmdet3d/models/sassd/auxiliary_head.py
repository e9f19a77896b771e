"""The auxiliary network of SA-SSD, which in training predicts the object of every point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mmcv.ops
import torch
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...compat import cpu_ops
from ..connected_zero import connected_zero

__all__ = ["PointLevel", "SASSDAuxiliaryHead", "interpolate_nearest"]


class PointLevel(NamedTuple):
    """Features and positions of the sites of one sparse tensor.

    Attributes:
        features: (M, C) features of the sites.
        centres: (M, 3) ``(x, y, z)`` in metres.
        batch_index: (M,) int64, frame of each site.
    """

    features: Tensor
    centres: Tensor
    batch_index: Tensor

    @classmethod
    def from_sparse(
        cls, tensor, stride: int, voxel_size: Sequence[float], origin: Sequence[float]
    ) -> PointLevel:
        """The sites of a tensor whose voxels are ``stride`` times as large as ``voxel_size``.

        Args:
            tensor: ``SparseConvTensor`` with indices ``(b, z, y, x)``.
            stride: stride of the tensor.
            voxel_size: (x, y, z) in metres at stride 1.
            origin: lower limits (x, y, z) of the voxels in metres.
        """
        features, indices = tensor.features, tensor.indices
        size = stride * features.new_tensor(voxel_size, dtype=torch.float32)
        low = features.new_tensor(origin, dtype=torch.float32)
        return cls(features, (indices[:, [3, 2, 1]] + 0.5) * size + low, indices[:, 0].long())


@MODELS.register_module()
class SASSDAuxiliaryHead(BaseModule):
    """Foreground and offset to the object's centre for every point, from features of three strides.

    Features are interpolated to each point from the three nearest sites of its frame
    (:func:`interpolate_nearest`), concatenated, and mapped linearly. The network helps to train the
    encoder and is not needed afterwards. mmdet3d's own version differs: it uses strides 1, 2 and 4
    in place of 2, 4 and 8, mixes the frames of a batch, and gives background points a centre.

    Args:
        in_channels: sum of the levels' channels.
        hidden_channels: width of the hidden layer.
        loss_cls: loss of the foreground logits (N, 1).
        loss_offset: loss of the offsets in metres.
        init_cfg: mmengine's.

    Source: He et al., CVPR 2020, section 3.3, and its released code, with the object's centre at
    half its height (there: at half its width).
    """

    def __init__(
        self,
        in_channels: int = 160,
        hidden_channels: int = 64,
        loss_cls: dict | None = None,
        loss_offset: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.point_fc = nn.Linear(in_channels, hidden_channels, bias=False)
        self.point_cls = nn.Linear(hidden_channels, 1, bias=False)
        self.point_reg = nn.Linear(hidden_channels, 3, bias=False)
        self.loss_cls = MODELS.build(
            loss_cls or dict(type="mmdet.FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25)
        )
        self.loss_offset = MODELS.build(loss_offset or dict(type="mmdet.SmoothL1Loss", beta=1 / 9))

    def forward(
        self, points: Tensor, batch_index: Tensor, levels: Sequence[PointLevel]
    ) -> tuple[Tensor, Tensor]:
        """Foreground logits (N,) and offsets (N, 3) of points (N, 3) of frames (N,)."""
        features = [interpolate_nearest(points, batch_index, level) for level in levels]
        with torch.autocast(points.device.type, enabled=False):
            hidden = self.point_fc(torch.cat(features, dim=1))
            return self.point_cls(hidden).squeeze(1), self.point_reg(hidden)

    def loss(
        self,
        points: Tensor,
        batch_index: Tensor,
        levels: Sequence[PointLevel],
        gt_boxes: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """``loss_aux_cls`` and ``loss_aux_reg``, divided by foreground points and frames.

        Args:
            points: (N, 3) in metres.
            batch_index: (N,) int64.
            levels: what the encoder's stages have.
            gt_boxes: (n, 7) of each frame.
        """
        if not levels:  # no points
            nothing = connected_zero(self.parameters())
            return {"loss_aux_cls": nothing, "loss_aux_reg": nothing}
        logits, offsets = self(points, batch_index, levels)
        foreground, targets = self.targets(points, batch_index, gt_boxes)
        factor = len(gt_boxes) * max(int(foreground.sum()), 1)
        return {
            "loss_aux_cls": self.loss_cls(
                logits.unsqueeze(1), (~foreground).long(), avg_factor=factor
            ),
            "loss_aux_reg": self.loss_offset(
                offsets[foreground], targets[foreground], avg_factor=factor
            ),
        }

    @staticmethod
    @torch.no_grad()
    def targets(
        points: Tensor, batch_index: Tensor, gt_boxes: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Which points lie in an object, and their offsets from its centre.

        Args:
            points: (N, 3) in metres.
            batch_index: (N,) int64.
            gt_boxes: (n, 7) of each frame, ``(x, y, z, l, w, h, yaw)``, z at the bottom.

        Returns:
            Foreground (N,) bool, and offsets (N, 3) ``point - centre`` in metres, 0 elsewhere. If
            several objects contain a point, the first one counts.
        """
        ops = mmcv.ops if points.is_cuda else cpu_ops
        foreground = torch.zeros_like(batch_index, dtype=torch.bool)
        offsets = torch.zeros_like(points)
        for frame, boxes in enumerate(gt_boxes):
            rows = (batch_index == frame).nonzero().squeeze(1)
            if not len(rows) or not len(boxes):
                continue
            boxes = boxes[:, :7].to(points).contiguous()
            owner = ops.points_in_boxes_part(points[rows][None].contiguous(), boxes[None])[0]
            rows, owner = rows[owner >= 0], owner[owner >= 0].long()
            centres = boxes[:, :3].clone()
            centres[:, 2] += boxes[:, 5] / 2
            foreground[rows] = True
            offsets[rows] = points[rows] - centres[owner]
        return foreground, offsets


def interpolate_nearest(points: Tensor, batch_index: Tensor, level: PointLevel) -> Tensor:
    """Mean of the features of the three nearest sites, weighted by inverse distance.

        out_i = sum_k w_ik features_{n_k(i)},   w_ik = 1 / (d_ik + 1e-8), normalised over k

    Neighbours are of the same frame. If there are fewer than three sites, those are used; without
    any the result is 0. Only the features get a gradient.

    Args:
        points: (N, 3) in metres.
        batch_index: (N,) int64.
        level: the sites.

    Returns:
        (N, C) float32.
    """
    ops = mmcv.ops if points.is_cuda else cpu_ops
    weight = points.new_zeros(len(points), 3)
    nearest = torch.zeros(len(points), 3, dtype=torch.long, device=points.device)
    for frame in batch_index.unique():
        rows = (batch_index == frame).nonzero().squeeze(1)
        sites = (level.batch_index == frame).nonzero().squeeze(1)
        if len(sites):
            distance, index = ops.three_nn(
                points[rows][None].contiguous(), level.centres[sites][None].contiguous()
            )
            weight[rows] = 1 / (distance[0] + 1e-8)
            nearest[rows] = sites[index[0].long()]
    weight = weight / weight.sum(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    return (level.features.float()[nearest] * weight.unsqueeze(2)).sum(1)
