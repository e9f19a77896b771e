"""What a refinement has found, as fields of the detections of a frame."""

from __future__ import annotations

import torch
from mmdet3d.structures import Det3DDataSample
from mmdet3d.structures.bbox_3d import limit_period
from torch import Tensor

from ebm_mmdet.energy import RefinementResult

__all__ = ["write_refined_boxes"]


def write_refined_boxes(
    sample: Det3DDataSample, reference: Tensor, result: RefinementResult, min_size: float
) -> None:
    """Write the result of a frame into its ``pred_instances_3d``, in place.

    Boxes that did not move keep every bit. ``EBM3DDetector`` describes the fields.

    Args:
        sample: the data sample.
        reference: (n, 7) boxes before refinement, z at the bottom.
        result: the refinement's result, in offsets from ``reference``.
        min_size: lower limit of l, w and h of a box that moved, in metres.
    """
    instances = sample.pred_instances_3d
    boxes = instances.bboxes_3d.tensor
    moved = (result.y != 0).any(dim=1, keepdim=True)
    refined = _usual(reference + result.y, min_size).to(boxes)
    seven = torch.where(moved, refined, boxes[:, :7])
    instances.bboxes_3d = instances.bboxes_3d.new_box(torch.cat((seven, boxes[:, 7:]), dim=1))
    instances.log_density = result.log_density
    instances.accepted_steps = result.accepted.long()
    if result.modes is not None:
        others = _usual((reference.unsqueeze(1) + result.modes[:, 1:]).flatten(0, 1), min_size)
        others = others.view(len(seven), -1, 7).to(seven)
        instances.modes = torch.cat((seven.unsqueeze(1), others), dim=1)
        instances.mode_mass = result.mode_mass
    if result.covariance is not None:
        instances.box_cov = result.covariance
        instances.box_std = result.covariance.diagonal(dim1=1, dim2=2).sqrt()
        instances.ess, instances.log_prob = result.ess, result.log_prob


def _usual(boxes: Tensor, min_size: float) -> Tensor:
    """(N, 7) boxes with sizes of at least ``min_size`` and yaw in [-π, π)."""
    sizes = boxes[:, 3:6].clamp(min=min_size)
    yaw = limit_period(boxes[:, 6:], offset=0.5, period=2 * torch.pi)
    return torch.cat((boxes[:, :3], sizes, yaw), dim=1)
