"""KL-Loss with variance voting on the features of an energy head, for any detector with an NMS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ebm_mmdet.apis.fitting.kl_regressor import KLRegressor
from ebm_mmdet.models import EnergyGuidedNMS
from ebm_mmdet.models.detectors import EBMDetector
from ebm_mmdet.models.pixels import box_scale, clip_to_image
from ebm_mmdet.models.task_modules.variance_voting import select_detections

__all__ = ["every_box", "nms_of", "vote_with"]


def nms_of(detector: nn.Module) -> Mapping | None:
    """``score_thr`` and ``nms`` of a detector's test config; None if it suppresses nothing."""
    roi_head = getattr(detector, "roi_head", None)
    head = getattr(detector, "bbox_head", None) if roi_head is None else roi_head
    test_cfg = getattr(head, "test_cfg", None) or {}
    if not test_cfg.get("nms"):
        return None
    return dict(score_thr=test_cfg.get("score_thr", 0.05), nms=dict(test_cfg["nms"]))


def every_box(wrapper: EBMDetector) -> nn.Module:
    """A view of the detector that returns what it would suppress, too.

    Its score threshold is that of the wrapper's own candidates, or else the detector's.
    """
    candidates = wrapper.candidates
    if candidates is None:
        candidates = EnergyGuidedNMS(score_thr=nms_of(wrapper.detector)["score_thr"])
    return candidates.without_nms(wrapper.detector)


def vote_with(
    regressor: KLRegressor,
    feats: Sequence[Tensor],
    sample: DetDataSample,
    nms: Mapping,
    max_per_img: int,
) -> DetDataSample:
    """Regress every candidate, suppress, and let the neighbours vote by their variances.

    The suppression is the detector's own, of the regressed boxes; the vote has the published
    settings. Boxes are clipped to the image, as in the row that others are compared with.

    Args:
        regressor: the trained head.
        feats: what its ``prepare`` returned for this image.
        sample: with candidates before suppression, in the image's own pixels.
        nms: config of the NMS.
        max_per_img: how many detections are kept.

    Returns:
        The sample with the detections, in the image's own pixels.

    Source: He et al., CVPR 2019 (arXiv:1809.08545), algorithm 1.
    """
    found, scale = sample.pred_instances, box_scale(sample, rescale=True)
    boxes = found.bboxes.float() * scale
    # The spread of a box without area would be zero, and its vote infinite.
    whole = (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes, found = boxes[whole], found[whole]
    image = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
    mean, std = regressor.sides(feats, boxes, image)
    alpha = 2 * (std / regressor.coder.pixels_per_delta(boxes)).log()
    candidates = InstanceData(
        bboxes=mean, scores=found.scores, labels=found.labels, side_std=std, alpha=alpha
    )
    settings = dict(nms=nms, max_per_img=max_per_img, var_vote={})
    (kept,) = select_detections([candidates], settings)
    kept.bboxes = clip_to_image(kept.bboxes / scale, sample.metainfo, scale)
    sample.pred_instances = kept
    return sample
