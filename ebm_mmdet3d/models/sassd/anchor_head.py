"""Proposals of SA-SSD: mmdet3d's anchor head, without anchors over empty ground."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet3d.models.dense_heads import Anchor3DHead
from mmdet3d.registry import MODELS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmdet3d.structures.bbox_3d import limit_period
from mmengine.structures import InstanceData
from torch import Tensor

from .occupancy import count_points

__all__ = ["SASSDHead"]


@MODELS.register_module()
class SASSDHead(Anchor3DHead):
    """Anchor head for one class, on one map.

    An anchor with fewer than ``min_points`` points in its footprint is neither trained nor used.
    ``AlignedAnchor3DRangeGenerator`` puts anchors in the centres of the map's cells; mmdet3d's
    usual generator puts the first and the last anchor on the borders of the range.

    Args:
        min_points: see above; 2 in the paper.
        **kwargs: arguments of ``Anchor3DHead``.

    Raises:
        ValueError: there is more than one class.

    Source: He et al., CVPR 2020, and its released code.
    """

    def __init__(self, *, min_points: int = 2, **kwargs) -> None:
        if kwargs.get("num_classes") != 1:
            raise ValueError(
                f"num_classes={kwargs.get('num_classes')}, but part-sensitive warping scores boxes "
                "of one class; merge the classes (MergeClasses3D) or use mmdet3d's SASSD"
            )
        super().__init__(**kwargs)
        self.min_points = min_points

    def anchors(self, size: Sequence[int], device: torch.device) -> Tensor:
        """(A, 7) anchors of a map of (H, W) cells: rows, columns, then rotations."""
        return self.prior_generator.grid_anchors([tuple(size)], device=device)[0].reshape(-1, 7)

    def occupied_anchors(
        self,
        size: Sequence[int],
        coors: Tensor,
        batch_size: int,
        grid: tuple[int, int],
        voxel_size: Sequence[float],
        origin: Sequence[float],
    ) -> Tensor:
        """(B, A) bool: anchors of a map of (H, W) cells that have at least ``min_points`` points.

        The other arguments are those of :func:`~.occupancy.count_points`.
        """
        anchors = self.anchors(size, coors.device)
        footprints = LiDARInstance3DBoxes(anchors).nearest_bev
        counts = count_points(coors, footprints, batch_size, grid, voxel_size, origin)
        return counts >= self.min_points

    def masked_loss(
        self,
        outs: tuple[list[Tensor], ...],
        occupied: Tensor,
        gt_boxes: Sequence[Tensor],
        gt_labels: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """``loss_cls``, ``loss_bbox`` and ``loss_dir`` of the anchors that count.

        Each loss is the mean over frames of the sum over the frame's anchors divided by the number
        of its positive ones (at least 1), as in the released code:

            loss = 1/B sum_b 1/max(P_b, 1) sum_a loss_ba

        (mmdet3d's ``Anchor3DHead`` divides the sum over the whole batch by all its positives.)

        Args:
            outs: what ``forward`` returned.
            occupied: (B, A) bool.
            gt_boxes: (n, 7) of each frame.
            gt_labels: (n,) integers of each frame, zeros.

        Returns:
            Scalars; without any positive anchor, ``loss_bbox`` and ``loss_dir`` are a zero that is
            connected to the maps.
        """
        sums: dict[str, Tensor] = {}
        for i, (boxes, labels) in enumerate(zip(gt_boxes, gt_labels)):
            of_frame = [[level[i : i + 1] for level in levels] for levels in outs]
            # Assigners index with labels, and data sets may have int32 labels.
            objects = InstanceData(bboxes_3d=boxes, labels_3d=labels.long())
            losses = self.loss_by_feat(*of_frame, [objects], [dict(occupied_anchors=occupied[i])])
            for name, values in losses.items():
                sums[name] = sums.get(name, 0) + sum(values)
        return {name: value / len(gt_boxes) for name, value in sums.items()}

    def anchor_target_single_assigner(
        self,
        bbox_assigner,
        anchors: Tensor,
        gt_instance_3d: InstanceData,
        gt_instance_ignore,
        input_meta: dict,
        num_classes: int = 1,
        sampling: bool = True,
    ) -> tuple[Tensor, ...]:
        """Assign the occupied anchors, as mmdet3d does; the others get no weight."""
        anchors = anchors.reshape(-1, anchors.shape[-1])
        inside = input_meta["occupied_anchors"].nonzero().squeeze(1)
        *targets, positive, negative = super().anchor_target_single_assigner(
            bbox_assigner,
            anchors[inside],
            gt_instance_3d,
            gt_instance_ignore,
            input_meta,
            num_classes,
            sampling,
        )
        labels, *rest = targets
        everywhere = [labels.new_full((len(anchors),), num_classes)]
        everywhere += [value.new_zeros(len(anchors), *value.shape[1:]) for value in rest]
        for full, value in zip(everywhere, targets):
            full[inside] = value
        return (*everywhere, inside[positive], inside[negative])

    def guided_boxes(
        self, outs: tuple[list[Tensor], ...], occupied: Tensor, score_thr: float
    ) -> tuple[Tensor, Tensor]:
        """Decode the occupied anchors of high score, with the predicted direction.

        Args:
            outs: what ``forward`` returned.
            occupied: (B, A) bool.
            score_thr: only boxes with a score above this are returned.

        Returns:
            Boxes (N, 7) with a gradient, all finite, and the frame (N,) int64 of each, ascending.
        """
        scores, deltas, directions = (
            level[0].permute(0, 2, 3, 1).flatten(1).float() for level in outs
        )
        frame, index = (occupied & (scores.sigmoid() > score_thr)).nonzero(as_tuple=True)
        anchors = self.anchors(outs[0][0].shape[-2:], scores.device)
        boxes = self.bbox_coder.decode(
            anchors[index], deltas.unflatten(1, (-1, self.box_code_size))[frame, index]
        )
        backwards = directions.unflatten(1, (-1, 2))[frame, index].argmax(1)
        yaw = limit_period(boxes[:, 6] - self.dir_offset, self.dir_limit_offset, torch.pi)
        yaw = yaw + self.dir_offset + torch.pi * backwards
        boxes = torch.cat((boxes[:, :6], yaw.unsqueeze(1)), dim=1)
        finite = torch.isfinite(boxes).all(dim=1)
        return boxes[finite], frame[finite]
