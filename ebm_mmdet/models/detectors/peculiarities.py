"""Detectors whose ``predict`` differs from that of mmdet's usual ones."""

from __future__ import annotations

import inspect

from mmdet.models.data_preprocessors import MultiBranchDataPreprocessor
from mmdet.models.mot import BaseMOTModel
from mmdet.structures import SampleList
from mmengine.logging import print_log
from torch import Tensor, nn

from ..masks import innermost
from ..pixels import network_pixels

__all__ = [
    "predict_boxes",
    "refuse_trackers",
    "refuse_without_boxes",
    "single_image_preprocessor",
    "warn_without_boxes",
]


def refuse_without_boxes(detector: nn.Module) -> None:
    """Raise unless the detector predicts instances; called when a wrapper is built.

    Raises:
        ValueError: it is a model of videos, or a panoptic segmentor that gives no instances
            (PanopticFPN, MaskFormer).
    """
    detector = innermost(detector)
    refuse_trackers(type(detector))
    if getattr(detector, "panoptic_fusion_head", None) is None:
        return
    test_cfg = getattr(detector, "test_cfg", None) or {}
    if not test_cfg.get("instance_on", False):
        raise ValueError(
            f"{type(detector).__name__} predicts a panoptic map and no pred_instances, so there "
            "are no boxes to refine; wrap a detector of boxes, or, for MaskFormer and Mask2Former, "
            "set model.detector.test_cfg.instance_on=True"
        )


def refuse_trackers(kind: type) -> None:
    """Raise ``ValueError`` for a class of models of videos; nothing needs to be built."""
    if issubclass(kind, BaseMOTModel):
        raise ValueError(
            f"{kind.__name__} tracks objects in videos; refine a detector of images, such as the "
            "one that most trackers have as model.detector, with a config of its own"
        )


def warn_without_boxes(detector: nn.Module) -> None:
    """Log a warning if the detector predicts masks with boxes of zeros (SOLO, SOLOv2)."""
    detector = innermost(detector)
    if getattr(detector, "mask_head", None) is None:
        return
    heads = ("bbox_head", "roi_head", "rpn_head", "query_head")
    if all(getattr(detector, name, None) is None for name in heads):
        print_log(
            f"{type(detector).__name__} has a mask head and no box head: its boxes are zeros, "
            "which no refinement moves. Its masks stay as they are; refine another detector.",
            logger="current",
            level=30,  # logging.WARNING
        )


def single_image_preprocessor(detector: nn.Module) -> nn.Module:
    """The detector's preprocessor; of a semi-supervised detector, the one for single images."""
    preprocessor = detector.data_preprocessor
    if isinstance(preprocessor, MultiBranchDataPreprocessor):
        return preprocessor.data_preprocessor
    return preprocessor


def predict_boxes(
    detector: nn.Module, batch_inputs: Tensor, samples: SampleList, rescale: bool
) -> SampleList:
    """``detector.predict`` with integer labels, for detectors without ``rescale`` too.

    Args:
        detector: an mmdet detector. Without the argument ``rescale`` (semi-supervised ones), its
            boxes are in pixels of the original image, and are converted if need be.
        batch_inputs: (B, 3, H, W) preprocessed images.
        samples: their data samples.
        rescale: return boxes in pixels of the original image instead of the network's input.

    Raises:
        ValueError: the detector gives no ``pred_instances``, or masks whose pixels cannot be
            chosen.
    """
    parameters = inspect.signature(detector.predict).parameters
    chooses = "rescale" in parameters or any(
        each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()
    )
    if chooses:
        samples = detector.predict(batch_inputs, samples, rescale=rescale)
    else:
        samples = detector.predict(batch_inputs, samples)
    for sample in samples:
        if "pred_instances" not in sample:
            raise ValueError(
                f"{type(detector).__name__} predicts {sorted(sample.all_keys())} and no "
                "pred_instances, so there are no boxes to refine; wrap a detector of boxes"
            )
        found = sample.pred_instances
        if found.labels.is_floating_point():
            found.labels = found.labels.long()  # CrowdDet's are zeros of the scores' type
        if not chooses and not rescale:
            if "masks" in found:
                raise ValueError(
                    f"{type(detector).__name__}.predict has no rescale, so its masks cannot be had "
                    "in the network's pixels; predict with rescale=True"
                )
            found.bboxes = found.bboxes * network_pixels(sample, found.bboxes.device)
    return samples
