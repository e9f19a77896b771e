"""What a refinement has found, as fields of the detections of an image."""

from __future__ import annotations

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor

from ...energy import RefinementResult
from ..box_coding import change_reference, decode_boxes
from ..inclusive_boxes import rescale_inclusive
from ..pixels import clip_to_image
from ..side_uncertainty import carry_side_std
from ..uncertain_instances import UncertainInstances
from .detector_wrapper import detector_covariance

__all__ = ["add_last_pixel", "write_refined_boxes"]


def write_refined_boxes(
    sample: DetDataSample,
    scale: Tensor,
    reference: Tensor,
    result: RefinementResult,
    clip_boxes: bool | str,
) -> None:
    """Write the result of an image into its ``pred_instances``, in place.

    Boxes that did not move keep every bit, unless ``clip_boxes='all'``. ``EBMDetector`` describes
    the fields. Standard deviations of sides are those of the box before clipping, and the
    detector's own stay what they are, in pixels: to move a side makes it no better known.

    Args:
        sample: the data sample.
        scale: (4,) network-input pixels per pixel of its boxes.
        reference: (n, 4) boxes in network-input pixels, before refinement.
        result: the refinement's result, in offsets from ``reference``.
        clip_boxes: that of ``EBMDetector``.
    """
    instances = sample.pred_instances
    # Scaling and scaling back would round boxes that did not move: write only the others.
    moved = (result.y != 0).any(dim=1, keepdim=True)
    refined = decode_boxes(result.y, reference) / scale
    detected = instances.bboxes.to(refined.dtype)
    unclipped = torch.where(moved, refined, detected)
    if clip_boxes:
        clipped = clip_to_image(refined, sample.metainfo, scale)
        # A pixel of tolerance, because detectors that clip do so at a rounded border.
        outside = detected - clip_to_image(detected, sample.metainfo, scale)
        far = (outside * scale).abs() > 1
        low, high = torch.minimum(detected, clipped), torch.maximum(detected, clipped)
        refined = torch.where(far, torch.minimum(torch.maximum(refined, low), high), clipped)
    boxes = torch.where(moved, refined, detected)
    if clip_boxes == "all":
        boxes = clip_to_image(boxes, sample.metainfo, scale)
    instances.bboxes = boxes
    instances.log_density = result.log_density
    instances.accepted_steps = result.accepted.long()
    if result.modes is not None:
        modes = decode_boxes(result.modes, reference.unsqueeze(1)) / scale
        if clip_boxes:
            modes = clip_to_image(modes, sample.metainfo, scale)
        # The first mode is the box, with every bit and clipped in the same way.
        instances.modes = torch.cat([boxes.unsqueeze(1), modes[:, 1:]], dim=1)
        instances.mode_mass = result.mode_mass
    covariance = result.covariance
    if covariance is not None:
        covariance = change_reference(covariance, reference, unclipped * scale)
        covariance = carry_side_std(covariance, unclipped, boxes)
        instances.ess, instances.log_prob = result.ess, result.log_prob
        if result.samples is not None:
            drawn = decode_boxes(result.samples, reference.unsqueeze(1))
            instances.box_samples = drawn / scale
    elif (covariance := detector_covariance(instances)) is not None:
        covariance = carry_side_std(covariance, detected, boxes)
    if covariance is not None:
        instances.box_cov = covariance
        instances.box_std = covariance.diagonal(dim1=1, dim2=2).sqrt()
        sample.pred_instances = UncertainInstances.of(instances)


def add_last_pixel(instances: InstanceData, scale: Tensor) -> None:
    """Replace boxes (..., 4) in pixels of the file by those that maskrcnn-benchmark would give.

    Args:
        instances: of an image; all its boxes are replaced.
        scale: (4,) network-input pixels per pixel of its boxes.
    """
    for name in ("bboxes", "box_samples", "modes"):
        if name in instances:
            instances.set_field(rescale_inclusive(instances.get(name), scale), name)
