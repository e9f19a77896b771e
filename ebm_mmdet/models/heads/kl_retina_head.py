"""RetinaNet's head with a log-variance per box side."""

from __future__ import annotations

import torch
from mmdet.models.dense_heads import RetinaHead
from mmdet.models.utils import filter_scores_and_topk, select_single_mlvl
from mmdet.registry import MODELS
from mmdet.structures.bbox import scale_boxes
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..losses import limit_alpha
from ..task_modules.variance_voting import select_detections
from .kl_bbox_head import ALPHA_STD, check_coder, side_std

__all__ = ["KLRetinaHead"]


@MODELS.register_module()
class KLRetinaHead(RetinaHead):
    """mmdet's ``RetinaHead`` with a log-variance α per anchor and side.

    Box maps have 8 channels per anchor: four deltas, then their four α. Detections gain the fields
    described in :class:`~ebm_mmdet.models.KLBBoxHead`; ``test_cfg.var_vote`` switches variance
    voting on.

    Args:
        bbox_coder: mmdet's; must be a ``DeltaXYXYBBoxCoder``.
        loss_bbox: must be a ``KLLoss``.
        init_cfg: mmengine's. Default: RetinaNet's, and N(0, 1e-4) for the layer of α.
        kwargs: those of ``RetinaHead``, whose checkpoints load (α then starts fresh).

    Raises:
        ValueError: the coder is another one, or boxes are decoded before the loss
            (``reg_decoded_bbox``).

    Source: He et al., CVPR 2019 (arXiv:1809.08545), whose detectors have two stages.
    """

    def __init__(
        self,
        *args,
        bbox_coder: dict | None = None,
        loss_bbox: dict | None = None,
        init_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        classes = dict(type="Normal", name="retina_cls", std=0.01, bias_prob=0.01)
        alpha = dict(type="Normal", name="retina_alpha", std=ALPHA_STD)
        super().__init__(
            *args,
            bbox_coder=bbox_coder or dict(type="DeltaXYXYBBoxCoder"),
            loss_bbox=loss_bbox or dict(type="KLLoss"),
            init_cfg=init_cfg
            or dict(type="Normal", layer="Conv2d", std=0.01, override=[classes, alpha]),
            **kwargs,
        )
        check_coder(self.bbox_coder, self.reg_decoded_bbox)

    def _init_layers(self) -> None:
        super()._init_layers()
        self.retina_alpha = nn.Conv2d(
            self.retina_reg.in_channels, 4 * self.num_base_priors, 3, padding=1
        )

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> scores (B, anchors * classes, H, W) and boxes (B, anchors * 8, H, W)."""
        scores = boxes = x
        for conv in self.cls_convs:
            scores = conv(scores)
        for conv in self.reg_convs:
            boxes = conv(boxes)
        parts = [layer(boxes) for layer in (self.retina_reg, self.retina_alpha)]
        parts = [part.unflatten(1, (self.num_base_priors, 4)) for part in parts]
        return self.retina_cls(scores), torch.cat(parts, dim=2).flatten(1, 2)

    def loss_by_feat_single(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        anchors: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        bbox_weights: Tensor,
        avg_factor: int,
    ) -> tuple[Tensor, Tensor]:
        """Classification loss and KL-Loss of one level; the arguments are mmdet's."""
        loss_cls = self.loss_cls(
            cls_score.permute(0, 2, 3, 1).reshape(-1, self.cls_out_channels),
            labels.reshape(-1),
            label_weights.reshape(-1),
            avg_factor=avg_factor,
        )
        # Only the foreground: elsewhere the weight is 0, and 0 times an infinite loss is NaN.
        weights = bbox_weights.reshape(-1, 4)
        foreground = torch.nonzero(weights.amax(1) > 0).squeeze(1)
        deltas, alpha = bbox_pred.permute(0, 2, 3, 1).reshape(-1, 8)[foreground].chunk(2, dim=1)
        loss_bbox = self.loss_bbox(
            deltas,
            bbox_targets.reshape(-1, 4)[foreground],
            alpha,
            weights[foreground],
            avg_factor=avg_factor,
        )
        return loss_cls, loss_bbox

    def predict_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        score_factors: None = None,
        batch_img_metas: list[dict] | None = None,
        cfg: dict | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Detections of a batch, see the class; the arguments are mmdet's.

        Without NMS every candidate is returned, by descending score.
        """
        cfg = dict(self.test_cfg if cfg is None else cfg)
        if not with_nms:
            cfg.update(nms=None, max_per_img=-1)
        # Not in the dtype of the scores: autocast's half precision would move anchors by pixels.
        priors = self.prior_generator.grid_priors(
            [level.shape[-2:] for level in cls_scores], torch.float32, cls_scores[0].device
        )
        candidates = [
            self._candidates(
                select_single_mlvl(cls_scores, i),
                select_single_mlvl(bbox_preds, i),
                priors,
                meta,
                cfg,
                rescale,
            )
            for i, meta in enumerate(batch_img_metas)
        ]
        return select_detections(candidates, cfg)

    def _candidates(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        priors: list[Tensor],
        meta: dict,
        cfg: dict,
        rescale: bool,
    ) -> InstanceData:
        """The best ``nms_pre`` boxes of each level of an image, for ``select_detections``."""
        chosen = []
        for cls_score, bbox_pred, anchors in zip(cls_scores, bbox_preds, priors):
            scores = cls_score.permute(1, 2, 0).reshape(-1, self.cls_out_channels)
            scores = scores.sigmoid() if self.use_sigmoid_cls else scores.softmax(1)[:, :-1]
            pred = bbox_pred.permute(1, 2, 0).reshape(-1, 8)
            limit = cfg.get("nms_pre", -1)
            scores, labels, _, rest = filter_scores_and_topk(
                scores,
                cfg.get("score_thr", 0),
                limit if limit > 0 else scores.numel(),
                dict(pred=pred, anchors=anchors),
            )
            chosen.append((scores, labels, rest["pred"], rest["anchors"]))
        scores, labels, pred, anchors = map(torch.cat, zip(*chosen))
        deltas, alpha = pred.chunk(2, dim=1)
        boxes = self.bbox_coder.decode(anchors, deltas, max_shape=meta["img_shape"])
        alpha = limit_alpha(alpha, self.loss_bbox.alpha_limits)
        found = InstanceData(
            bboxes=scale_boxes(boxes, [1 / s for s in meta["scale_factor"]]) if rescale else boxes,
            scores=scores.float(),
            labels=labels,
            side_std=side_std(self.bbox_coder, anchors, alpha, meta if rescale else None),
            alpha=alpha,
        )
        if (least := cfg.get("min_bbox_size", -1)) >= 0:
            found = found[(found.bboxes[:, 2:] - found.bboxes[:, :2] > least).all(1)]
        return found
