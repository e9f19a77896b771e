"""ROCK's SSD head: losses normalised by image, and its test-time selection."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import SSDHead
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

from .layers import KAIMING

__all__ = ["ROCKSSDHead"]


@MODELS.register_module()
class ROCKSSDHead(SSDHead):
    """mmdet's ``SSDHead`` with the losses of ROCK, for all images of a batch at once.

    With P positive and N background priors of an image, both counted, the loss of that image is

        (loc_weight · loc + conf) / P                     (0 if P = 0)
        loc  = Σ over positives of the smooth-L1 of 4 encoded coordinates
        conf = Σ over positives of the cross-entropy
             + Σ over the neg_pos_ratio · P largest of the background

    and the loss is the mean over the images, those without positives included; mmdet's head divides
    by the positives of the whole batch instead. With ``all_priors`` nothing is mined:

        conf = Σ over positives + background_weight · P / N · Σ over the background

    Priors that the assigner ignores (IoU between its thresholds) are in no sum, nor are those whose
    centre lies in an image's padding. An annotation without area, or with a coordinate that is not
    finite, is not trained on: its priors are what they would be without it.

    At test time the ``max_per_class`` best boxes of each class above ``score_thr`` go into NMS.

    Args:
        num_classes: without the background, which is the last logit.
        in_channels: channels of each level.
        anchor_generator: config; None is ``FractionSSDAnchorGenerator``.
        bbox_coder: config; None is SSD's with standard deviations .1 and .2.
        loc_weight: 6, or 3 as in the paper.
        neg_pos_ratio: background priors for each positive.
        all_priors: whether every background prior counts.
        background_weight: its factor with ``all_priors``.
        prior_probability: of each class, at the start of training.
        init_cfg: mmengine's; None is Kaiming normal.
        kwargs: those of ``SSDHead``. ``train_cfg.assigner`` and ``train_cfg.smoothl1_beta`` are
            read, and of ``test_cfg``: ``score_thr``, ``max_per_class``, ``nms``, ``max_per_img``
            and ``min_bbox_size``.

    Raises:
        ValueError: ``reg_decoded_bbox`` is set, or the anchor generator has another number of
            levels than ``in_channels``.

    Source: Mordan et al., NeurIPS 2018 (Revisiting Multi-Task Learning with ROCK), on SSD: Liu et
    al., ECCV 2016 (arXiv:1512.02325).
    """

    def __init__(
        self,
        num_classes: int = 19,
        in_channels: Sequence[int] = (2048, 1024, 512, 256, 256, 256),
        anchor_generator: dict | None = None,
        bbox_coder: dict | None = None,
        loc_weight: float = 6.0,
        neg_pos_ratio: float = 3.0,
        all_priors: bool = False,
        background_weight: float = 5.0,
        prior_probability: float = 0.01,
        init_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            in_channels=in_channels,
            anchor_generator=anchor_generator or dict(type="FractionSSDAnchorGenerator"),
            bbox_coder=bbox_coder
            or dict(type="DeltaXYWHBBoxCoder", target_stds=[0.1, 0.1, 0.2, 0.2]),
            init_cfg=init_cfg or KAIMING,
            **kwargs,
        )
        if self.reg_decoded_bbox:
            raise ValueError("ROCKSSDHead regresses encoded boxes; leave reg_decoded_bbox=False")
        if len(self.in_channels) != self.prior_generator.num_levels:
            raise ValueError(
                f"{len(self.in_channels)} levels in in_channels={tuple(self.in_channels)}, but the "
                f"anchor generator is for {self.prior_generator.num_levels}"
            )
        self.loc_weight, self.neg_pos_ratio = float(loc_weight), float(neg_pos_ratio)
        self.all_priors, self.background_weight = all_priors, float(background_weight)
        self.prior_probability = float(prior_probability)

    def init_weights(self) -> None:
        """Initialise as configured; then each class starts at about its prior probability."""
        super().init_weights()
        p = self.prior_probability
        for convs in self.cls_convs:
            bias = convs[-1].bias.data.view(-1, self.cls_out_channels)
            bias[:, :-1] = math.log(p / (1 - p))
            bias[:, -1] = 0

    def flatten_outputs(
        self, cls_scores: Sequence[Tensor], bbox_preds: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Maps of all levels -> logits (B, priors, classes + 1), boxes (B, priors, 4), float32."""
        logits, boxes = (
            torch.cat(
                [each.permute(0, 2, 3, 1).reshape(len(each), -1, width) for each in maps], dim=1
            ).float()
            for maps, width in ((cls_scores, self.cls_out_channels), (bbox_preds, 4))
        )
        return logits, boxes

    def priors(self, cls_scores: Sequence[Tensor], metas: Sequence[dict]) -> Tensor:
        """All priors (P, 4) in pixels of the network's input."""
        meta = metas[0]
        size = meta.get("batch_input_shape") or meta.get("pad_shape") or meta["img_shape"]
        # Not in the dtype of the scores: autocast's half precision would move priors by pixels.
        levels = self.prior_generator.grid_priors(
            [level.shape[-2:] for level in cls_scores],
            torch.float32,
            cls_scores[0].device,
            **self._input_size(tuple(size[:2])),
        )
        return torch.cat(levels)

    def _input_size(self, size: tuple[int, int]) -> dict:
        """What a generator whose priors follow the image is told in addition."""
        return dict(input_size=size) if hasattr(self.prior_generator, "fractions") else {}

    def assign(
        self, priors: Tensor, truth: InstanceData, meta: dict, ignored: InstanceData | None = None
    ) -> tuple[Tensor, Tensor]:
        """Match the priors of an image.

        Args:
            priors: (P, 4).
            truth: ``bboxes`` (n, 4) and ``labels`` (n,); n may be 0.
            meta: of the image.
            ignored: ``bboxes`` of regions in which nothing is trained, if the assigner reads them.

        Returns:
            Labels (P,): the class, the number of classes for background, or -1 for ignored; and the
            encoded boxes (P, 4), 0 where the prior is not positive.
        """
        boxes = getattr(truth.bboxes, "tensor", truth.bboxes).float().reshape(-1, 4)
        usable = boxes.isfinite().all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        boxes, classes = boxes[usable], truth.labels[usable]
        if ignored is not None:
            regions = getattr(ignored.bboxes, "tensor", ignored.bboxes).float().reshape(-1, 4)
            ignored = InstanceData(bboxes=regions)
        found = self.assigner.assign(
            InstanceData(priors=priors), InstanceData(bboxes=boxes, labels=classes), ignored
        ).gt_inds
        labels = torch.full_like(found, self.num_classes)
        targets = torch.zeros_like(priors)
        if len(boxes):
            own = (found - 1).clamp(min=0)
            positive = found > 0
            labels = classes[own].where(positive, labels)
            targets = self.bbox_coder.encode(priors, boxes[own]).where(positive[:, None], targets)
        centres = (priors[:, :2] + priors[:, 2:]) / 2
        height, width = meta.get("pad_shape", meta["img_shape"])[:2]
        outside = (centres[:, 0] >= width) | (centres[:, 1] >= height)
        return labels.masked_fill((found < 0) | outside, -1), targets

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """``loss_cls`` and ``loss_bbox``, see the class; the arguments are mmdet's."""
        logits, boxes = self.flatten_outputs(cls_scores, bbox_preds)
        priors = self.priors(cls_scores, batch_img_metas)
        ignored = batch_gt_instances_ignore or [None] * len(batch_gt_instances)
        matched = [
            self.assign(priors, *image)
            for image in zip(batch_gt_instances, batch_img_metas, ignored)
        ]
        labels, targets = (torch.stack(each) for each in zip(*matched))
        conf, loc = self.sums_of_images(logits, boxes, labels, targets)
        positives = ((labels >= 0) & (labels < self.num_classes)).sum(1)
        conf, loc = (
            torch.where(positives > 0, each / positives.clamp(min=1), 0).mean()
            for each in (conf, loc)
        )
        return dict(loss_cls=conf, loss_bbox=self.loc_weight * loc)

    def sums_of_images(
        self, logits: Tensor, boxes: Tensor, labels: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``conf`` and ``loc`` of the class's equations, before the division by P.

        Args:
            logits: (B, priors, classes + 1) float32.
            boxes: (B, priors, 4) predicted, encoded.
            labels: (B, priors), as of :meth:`assign`.
            targets: (B, priors, 4), likewise.

        Returns:
            Two tensors (B,).
        """
        positive = (labels >= 0) & (labels < self.num_classes)
        background = labels == self.num_classes
        entropy = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten().clamp(min=0), reduction="none"
        ).view_as(labels)
        of_positives = entropy.where(positive, 0).sum(1)
        count = positive.sum(1)
        if self.all_priors:
            share = count / background.sum(1).clamp(min=1)
            rest = self.background_weight * share * entropy.where(background, 0).sum(1)
        else:
            # One sort of the batch: topk would need the numbers on the host.
            ranked = entropy.where(background, -1).sort(dim=1, descending=True).values
            most = torch.minimum((self.neg_pos_ratio * count).long(), background.sum(1))
            rank = torch.arange(labels.shape[1], device=labels.device)
            rest = ranked.where(rank < most[:, None], 0).sum(1)
        beta = (self.train_cfg or {}).get("smoothl1_beta", 1.0)
        distance = F.smooth_l1_loss(boxes, targets, reduction="none", beta=beta).sum(2)
        return of_positives + rest, distance.where(positive, 0).sum(1)

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

        Without NMS every candidate is returned: at most ``max_per_class`` of each class.
        """
        cfg = ConfigDict(self.test_cfg if cfg is None else cfg)
        logits, boxes = self.flatten_outputs(cls_scores, bbox_preds)
        priors = self.priors(cls_scores, batch_img_metas)
        scores = logits.detach().softmax(2)[..., :-1]
        most = min(cfg.get("max_per_class", scores.shape[1]), scores.shape[1])
        best, rows = scores.topk(most, dim=1)
        results = []
        for top, index, deltas, meta in zip(best, rows, boxes.detach(), batch_img_metas):
            position, label = torch.nonzero(top > cfg.get("score_thr", 0), as_tuple=True)
            index = index[position, label]
            decoded = self.bbox_coder.decode(
                priors[index], deltas[index], max_shape=meta["img_shape"]
            )
            found = InstanceData(bboxes=decoded, scores=top[position, label], labels=label)
            results.append(
                self._bbox_post_process(
                    found, cfg, rescale=rescale, with_nms=with_nms, img_meta=meta
                )
            )
        return results
