"""The box head that also predicts a variance for each of the four sides of a box."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..losses import limit_alpha
from ..task_modules.delta_xyxy_coder import DeltaXYXYBBoxCoder
from ..task_modules.variance_voting import select_detections

__all__ = ["KLBBoxHead"]

ALPHA_STD = 1e-4
"""Initial weights of the layer that predicts α: σ = 1, so training starts as smooth L1."""


@MODELS.register_module()
class KLBBoxHead(Shared2FCBBoxHead):
    """mmdet's ``Shared2FCBBoxHead`` with a log-variance α per class and side.

    ``forward`` returns scores (R, classes + 1) and one tensor (R, 8 classes): the deltas of all
    classes, then their α. So it can replace the box head of any RoI head.

    Detections gain ``side_std`` (k, 4), the standard deviations of x1, y1, x2, y2 in pixels of the
    returned boxes, and ``box_std``, ``box_cov`` in encoded coordinates; see
    :func:`~ebm_mmdet.models.task_modules.variance_voting.select_detections`. Variance voting is
    switched on by ``test_cfg.rcnn.var_vote`` (``{}`` for the published settings). Without a test
    config all boxes and scores are returned, as in mmdet's head.

    Args:
        bbox_coder: mmdet's; must be a ``DeltaXYXYBBoxCoder``.
        loss_bbox: must be a ``KLLoss``.
        kwargs: those of ``Shared2FCBBoxHead``, whose checkpoints load (α then starts fresh).

    Raises:
        ValueError: the coder is another one, boxes are decoded before the loss
            (``reg_decoded_bbox``), or the head predicts no classes or no boxes.

    Source: He et al., CVPR 2019 (arXiv:1809.08545), sec. 3.
    """

    def __init__(
        self,
        bbox_coder: dict | None = None,
        loss_bbox: dict | None = None,
        init_cfg: dict | list | None = None,
        **kwargs,
    ) -> None:
        super().__init__(
            bbox_coder=bbox_coder or dict(type="DeltaXYXYBBoxCoder"),
            loss_bbox=loss_bbox or dict(type="KLLoss"),
            init_cfg=init_cfg,
            **kwargs,
        )
        check_coder(self.bbox_coder, self.reg_decoded_bbox)
        if not (self.with_cls and self.with_reg):
            raise ValueError("KLBBoxHead needs with_cls=True and with_reg=True")
        self.boxes_per_roi = 1 if self.reg_class_agnostic else self.num_classes
        self.fc_alpha = nn.Linear(self.reg_last_dim, 4 * self.boxes_per_roi)
        if init_cfg is None:
            self.init_cfg += [dict(type="Normal", std=ALPHA_STD, override=dict(name="fc_alpha"))]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(R, C, H, W) pooled features -> scores (R, classes + 1), deltas and α (R, 8 classes)."""
        x = (self.avg_pool(x) if self.with_avg_pool else x).flatten(1)
        for fc in self.shared_fcs:
            x = self.relu(fc(x))
        return self.fc_cls(x), torch.cat((self.fc_reg(x), self.fc_alpha(x)), dim=1)

    def loss(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor | None,
        rois: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor | None,
        bbox_weights: Tensor | None,
        reduction_override: str | None = None,
    ) -> dict[str, Tensor]:
        """The losses of mmdet's head, with KL-Loss for the boxes; the arguments are mmdet's.

        Returns:
            ``loss_cls`` and ``acc``; unless ``bbox_pred`` is None, also ``loss_bbox`` (which may be
            negative) and ``alpha``, the mean log-variance of the foreground for the log (0 without
            foreground).
        """
        losses = super().loss(
            cls_score,
            None,
            rois,
            labels,
            label_weights,
            bbox_targets,
            bbox_weights,
            reduction_override,
        )
        if bbox_pred is None:  # mmdet's OHEM sampler needs only the classification loss
            return losses
        foreground = torch.nonzero((labels >= 0) & (labels < self.num_classes)).squeeze(1)
        column = torch.zeros_like(foreground) if self.reg_class_agnostic else labels[foreground]
        rows = bbox_pred.view(len(bbox_pred), 2, self.boxes_per_roi, 4)
        deltas, alpha = rows[foreground, :, column].unbind(1)
        losses["loss_bbox"] = self.loss_bbox(
            deltas,
            bbox_targets[foreground],
            alpha,
            bbox_weights[foreground],
            avg_factor=len(bbox_targets),
            reduction_override=reduction_override,
        )
        losses["alpha"] = alpha.detach().float().sum() / max(alpha.numel(), 1)
        return losses

    def predict_by_feat(
        self,
        rois: Sequence[Tensor],
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        batch_img_metas: list[dict],
        rcnn_test_cfg: dict | None = None,
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Detections of a batch, see the class; the arguments are mmdet's."""
        deltas, alphas = zip(*(pred.chunk(2, dim=1) for pred in bbox_preds))
        deltas = [part.contiguous() for part in deltas]
        # Without a test config mmdet decodes and scores, and leaves the selection to the caller.
        decoded = super().predict_by_feat(rois, cls_scores, deltas, batch_img_metas, None, rescale)
        if rcnn_test_cfg is None:
            return decoded
        candidates = [
            self._candidates(image, roi[:, 1:], alpha, rcnn_test_cfg, meta if rescale else None)
            for image, roi, alpha, meta in zip(decoded, rois, alphas, batch_img_metas)
        ]
        return select_detections(candidates, rcnn_test_cfg)

    def _candidates(
        self, decoded: InstanceData, roi: Tensor, alpha: Tensor, cfg: dict, meta: dict | None
    ) -> InstanceData:
        """Boxes of an image above the score threshold, in the format of ``select_detections``."""
        shape = (len(roi), self.boxes_per_roi, 4)
        # Half-precision scores would be tied, and mmcv's NMS does not accept them.
        boxes, scores = decoded.bboxes.view(shape), decoded.scores[:, : self.num_classes].float()
        row, label = torch.nonzero(scores > cfg["score_thr"], as_tuple=True)
        column = torch.zeros_like(label) if self.reg_class_agnostic else label
        alpha = limit_alpha(alpha.reshape(shape)[row, column], self.loss_bbox.alpha_limits)
        return InstanceData(
            bboxes=boxes[row, column],
            scores=scores[row, label],
            labels=label,
            side_std=side_std(self.bbox_coder, roi[row], alpha, meta),
            alpha=alpha,
        )

    def regress_by_class(
        self, priors: Tensor, label: Tensor, bbox_pred: Tensor, img_meta: dict
    ) -> Tensor:
        """Boxes for the next stage of a cascade; the arguments are mmdet's."""
        return super().regress_by_class(priors, label, bbox_pred.chunk(2, dim=1)[0], img_meta)


def side_std(coder: DeltaXYXYBBoxCoder, priors: Tensor, alpha: Tensor, meta: dict | None) -> Tensor:
    """Standard deviations of decoded sides in pixels.

    Args:
        coder: the coder with which the deltas are decoded.
        priors: (n, 4) proposals or anchors in network-input pixels.
        alpha: (n, 4) log-variances of deltas.
        meta: the image's metadata if boxes are rescaled to pixels of the original image, else None.

    Returns:
        (n, 4) float32, of x1, y1, x2, y2.
    """
    std = torch.exp(0.5 * alpha) * coder.pixels_per_delta(priors)
    if meta is None:
        return std
    width, height = meta["scale_factor"]
    return std / std.new_tensor([width, height, width, height])


def check_coder(coder: object, decoded: bool) -> None:
    """Raise ``ValueError`` unless each variance of a delta belongs to one side of the box."""
    if not isinstance(coder, DeltaXYXYBBoxCoder) or decoded:
        raise ValueError(
            f"bbox_coder={type(coder).__name__} with reg_decoded_bbox={decoded}: a variance per "
            "side needs bbox_coder=dict(type='DeltaXYXYBBoxCoder') and reg_decoded_bbox=False"
        )
