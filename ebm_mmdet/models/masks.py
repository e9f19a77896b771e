"""Masks of a two-stage detector that are predicted after its boxes have been chosen or refined."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence

from mmdet.structures import SampleList
from mmengine.logging import print_log
from mmengine.structures import InstanceData
from torch import Tensor, nn

from .pixels import box_scale

__all__ = [
    "check_masks_from",
    "has_masks",
    "innermost",
    "masks_can_wait",
    "predict_masks",
    "recording_features",
    "without_masks",
]


def innermost(detector: nn.Module) -> nn.Module:
    """The detector inside all wrappers, such as ``ROCKDetector``."""
    while isinstance(getattr(detector, "detector", None), nn.Module):
        detector = detector.detector
    return detector


def has_masks(detector: nn.Module) -> bool:
    """Whether the detector's RoI head predicts masks."""
    return bool(getattr(getattr(innermost(detector), "roi_head", None), "with_mask", False))


MAPS_OF = {"semantic_heat": "semantic_head", "glbctx_feat": "glbctx_head"}
"""Arguments of ``predict_mask`` beside the features, and the part of the RoI head whose second
output each is: HTC and SCNet add maps of semantics and of the whole image to those of a box."""


def masks_can_wait(detector: nn.Module) -> bool:
    """Whether ``roi_head.predict_mask`` takes any boxes, given the features of ``extract_feat``.

    It does in Mask R-CNN and its cascades, PointRend, Mask Scoring R-CNN, HTC and SCNet.
    """
    if not has_masks(detector):
        return False
    predict_mask = getattr(innermost(detector).roi_head, "predict_mask", None)
    if predict_mask is None:
        return False
    names = list(inspect.signature(predict_mask).parameters)
    names = [name for name in names if name not in MAPS_OF]
    return names[:4] == ["x", "batch_img_metas", "results_list", "rescale"]


def check_masks_from(masks_from: str, detector: nn.Module) -> None:
    """Check the switch ``masks_from`` of ``EBMDetector``, and log which boxes masks belong to.

    Raises:
        ValueError: it has no such value, or the detector cannot do what it asks for.
    """
    if masks_from not in ("detected", "refined"):
        raise ValueError(f"masks_from={masks_from!r}; use 'detected' or 'refined'")
    if masks_from == "refined" and not masks_can_wait(detector):
        raise ValueError(
            f"masks_from='refined', but {type(detector).__name__} has no roi_head.predict_mask "
            "that takes boxes and features alone; use masks_from='detected'"
        )
    if has_masks(detector):
        print_log(
            f"Masks belong to the {masks_from} boxes (masks_from={masks_from!r}).",
            logger="current",
        )


def _more_maps(roi_head: nn.Module, feats: Sequence[Tensor]) -> dict[str, Tensor | None]:
    """What ``predict_mask`` wants beside the features; None from a part that is not there."""
    found = {}
    for name in inspect.signature(roi_head.predict_mask).parameters:
        if name in MAPS_OF:
            part = getattr(roi_head, MAPS_OF[name], None)
            found[name] = None if part is None else part(feats)[1]
    return found


def without_masks(roi_head: nn.Module) -> nn.Module:
    """The same RoI head without its mask head; nothing is copied but the table of children."""
    view = copy.copy(roi_head)
    children = {name: child for name, child in roi_head._modules.items() if name != "mask_head"}
    view.__dict__["_modules"] = children
    return view


def recording_features(detector: nn.Module) -> tuple[nn.Module, list[Sequence[Tensor]]]:
    """A view of the detector, and a list to which it adds what its ``extract_feat`` returns.

    In a wrapper, that is the ``extract_feat`` of the detector inside.
    """
    view = copy.copy(detector)
    inner = getattr(detector, "detector", None)
    if isinstance(inner, nn.Module):
        inner, record = recording_features(inner)
        view.__dict__["_modules"] = {**detector._modules, "detector": inner}
        return view, record
    record: list[Sequence[Tensor]] = []

    def extract_feat(*args, **kwargs):
        record.append(detector.extract_feat(*args, **kwargs))
        return record[-1]

    view.__dict__["extract_feat"] = extract_feat
    return view, record


def predict_masks(
    detector: nn.Module,
    feats: Sequence[Tensor],
    samples: SampleList,
    rescale: bool,
    replace: bool,
) -> None:
    """Set ``masks`` (n, H, W) of the ``pred_instances`` of a batch to those of their boxes.

    Args:
        detector: see :func:`masks_can_wait`.
        feats: what the detector's ``extract_feat`` returned for these images.
        samples: data samples with predictions; changed in place.
        rescale: whether their boxes are in pixels of the original image, whose size the masks then
            get, instead of the network's input.
        replace: the masks replace others of the same objects. Otherwise Mask Scoring R-CNN, whose
            mask head rates each mask, changes the scores as well, as in its own prediction.
    """
    results = [
        InstanceData(
            bboxes=sample.pred_instances.bboxes * box_scale(sample, rescale),
            scores=sample.pred_instances.scores,
            labels=sample.pred_instances.labels,
        )
        for sample in samples
    ]
    roi_head = innermost(detector).roi_head
    results = roi_head.predict_mask(
        feats,
        batch_img_metas=[sample.metainfo for sample in samples],
        results_list=results,
        rescale=rescale,
        **_more_maps(roi_head, feats),
    )
    for sample, result in zip(samples, results):
        sample.pred_instances.masks = result.masks
        if not replace:
            sample.pred_instances.scores = result.scores
