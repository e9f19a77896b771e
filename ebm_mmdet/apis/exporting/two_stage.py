"""Candidates of mmdet's two-stage detectors in fixed shapes: proposals, RoI features, box head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmcv.ops import RoIAlign
from mmdet.models.roi_heads import SingleRoIExtractor, StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from torch import Tensor, nn

from ebm_ops import PrRoIPool
from ebm_ops.prroi_pool import dense

from .suppression import Candidates

__all__ = ["check_roi_head", "roi_candidates"]


def check_roi_head(head: nn.Module, name: str) -> None:
    """Raise ``ValueError`` unless this RoI head pools and decodes as it is done here."""
    extractor, box_head = (
        getattr(head, part, None) for part in ("bbox_roi_extractor", "bbox_head")
    )
    parts = (
        (head, name, StandardRoIHead, ("predict_bbox", "_bbox_forward")),
        (extractor, f"{name}.bbox_roi_extractor", SingleRoIExtractor, ("forward",)),
        (box_head, f"{name}.bbox_head", BBoxHead, ("predict_by_feat", "_predict_by_feat_single")),
    )
    for module, where, base, methods in parts:
        for method in methods:
            if getattr(type(module), method, None) is not getattr(base, method):
                raise ValueError(
                    f"{where} is {type(module).__name__}, whose {method} is not that of "
                    f"{base.__name__}, the only one that is exported. The refinement alone can be "
                    "exported: --refinement-only"
                )
    for number, layer in enumerate(extractor.roi_layers):
        if not _is_known(layer):
            raise ValueError(
                f"{name}.bbox_roi_extractor.roi_layers.{number} is {layer}; exported are RoIAlign "
                "with pool_mode='avg', and PrRoIPool"
            )
    if box_head.custom_cls_channels:
        raise ValueError(
            f"{name}.bbox_head.loss_cls is {type(box_head.loss_cls).__name__}, whose scores have "
            "an activation of its own; exported is softmax"
        )


def _is_known(layer: nn.Module) -> bool:
    return type(layer) is PrRoIPool or (type(layer) is RoIAlign and layer.pool_mode == "avg")


def roi_candidates(
    head: nn.Module,
    maps: Sequence[Tensor],
    proposals: Candidates,
    image_size: tuple[int, int],
    score_thr: float,
) -> Candidates:
    """All that the box head would give to NMS: each proposal with each class.

    Args:
        head: checked by :func:`check_roi_head`.
        maps: (1, C, H, W) of each level.
        proposals: of N places.
        image_size: (height, width) of the network's input, to which boxes are clipped.
        score_thr: boxes with a score above this are candidates.
    """
    box_head, number = head.bbox_head, len(proposals.scores)
    rois = torch.cat([proposals.boxes.new_zeros(number, 1), proposals.boxes], 1)
    features = _pool(head.bbox_roi_extractor, maps, rois)
    if head.with_shared_head:
        features = head.shared_head(features)
    logits, deltas = box_head(features)
    scores = logits.softmax(1)[:, :-1]
    classes = scores.shape[1]
    repeated = 1 if box_head.reg_class_agnostic else classes
    boxes = box_head.bbox_coder.decode(
        proposals.boxes.repeat_interleave(repeated, 0),
        deltas.reshape(number * repeated, -1),
        max_shape=image_size,
    )
    boxes = boxes.reshape(number, repeated, 4).expand(number, classes, 4).reshape(-1, 4)
    labels = torch.arange(classes, device=scores.device).expand(number, classes).reshape(-1)
    exist = (scores > score_thr) & proposals.exist[:, None]
    return Candidates(boxes, scores.flatten(), labels).keep(exist.flatten())


def _pool(extractor: nn.Module, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
    """RoI features (N, C, h, w): every level pools every box, with weight 0 on other levels."""
    maps = maps[: extractor.num_inputs]
    levels = extractor.map_roi_levels(rois, len(maps))
    pooled = None
    for number, (layer, features) in enumerate(zip(extractor.roi_layers, maps)):
        part = (
            _align(layer, features, rois)
            if type(layer) is RoIAlign
            else _exact(layer, features, rois)
        )
        part = part * (levels == number).to(part.dtype)[:, None, None, None]
        pooled = part if pooled is None else pooled + part
    return pooled


def _exact(layer: PrRoIPool, features: Tensor, rois: Tensor) -> Tensor:
    return dense.forward(features, rois, *layer.output_size, layer.spatial_scale)


def _align(layer: RoIAlign, features: Tensor, rois: Tensor) -> Tensor:
    """RoIAlign as matrix products: its samples lie on a grid, so weights of rows and columns do."""
    (rows, columns), (h, w) = features.shape[2:], layer.output_size
    x1, y1, x2, y2 = (rois[:, 1:] * layer.spatial_scale).unbind(1)
    vx, vy = _sample_weights(layer, x1, x2, w, columns), _sample_weights(layer, y1, y2, h, rows)
    return dense.contract(features, rois[:, 0], vx, vy)


def _sample_weights(layer: RoIAlign, lo: Tensor, hi: Tensor, bins: int, nodes: int) -> Tensor:
    """(N, bins, nodes): the mean of the hats at the samples of each bin along one axis."""
    shift = 0.5 if layer.aligned else 0.0
    size = hi - lo if layer.aligned else (hi - lo).clamp(min=1)
    most = layer.sampling_ratio if layer.sampling_ratio > 0 else -(-nodes // bins)
    samples = torch.full_like(size, most) if layer.sampling_ratio > 0 else (size / bins).ceil()
    samples = samples[:, None, None]
    number = torch.arange(most, device=lo.device, dtype=lo.dtype)
    bin_of = torch.arange(bins, device=lo.device, dtype=lo.dtype)[:, None]
    inside = (number + 0.5) / samples.clamp(min=1)
    at = (lo - shift)[:, None, None] + (bin_of + inside) * (size / bins)[:, None, None]
    counts = (number < samples) & (at >= -1) & (at <= nodes)
    # Samples within a cell of the map read its border.
    node = torch.arange(nodes, device=lo.device, dtype=lo.dtype)
    hats = (1 - (at.clamp(0, nodes - 1)[..., None] - node).abs()).clamp(min=0)
    return (hats * counts[..., None].to(lo.dtype)).sum(2) / samples.clamp(min=1)
