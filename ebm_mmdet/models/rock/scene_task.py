"""Which type of scene an image shows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import LabelData
from torch import Tensor

from .auxiliary_task import AuxiliaryTask, mean_of_existing

__all__ = ["SceneTask"]


@MODELS.register_module()
class SceneTask(AuxiliaryTask):
    """Scene classification from S features, one for each type, averaged over the map.

        logits_s = mean over the cells of feature s;   loss = -w log softmax(logits)[truth]

    The truth is ``gt_scene = LabelData(label=(1,))`` of a data sample. If it is absent or negative,
    the scene of that image is unknown, and the loss is the mean over the others. The prediction is
    ``pred_scene = LabelData(scores=(S,), ranking=(S,))``: probabilities, and the types' indices by
    descending probability.

    Args:
        in_channels: C of the encoding.
        num_scenes: S. NYUv2 has 27.
        loss_weight: w.
        extra_convs: see :class:`AuxiliaryTask`, as for the remaining arguments.
        norm_cfg: likewise.
        init_cfg: likewise.
    """

    def __init__(
        self,
        in_channels: int,
        num_scenes: int = 27,
        loss_weight: float = 3.0,
        extra_convs: bool = True,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(in_channels, num_scenes, loss_weight, extra_convs, norm_cfg, init_cfg)

    def predict(self, features: Tensor) -> Tensor:
        """(B, S, h, w) -> logits (B, S) float32."""
        return features.float().mean((2, 3))

    def loss(self, prediction: Tensor, samples: Sequence[DetDataSample]) -> Tensor:
        """The weighted mean of -log p(truth) over those images whose scene is known."""
        labels = [
            sample.gt_scene.label.reshape(-1)[0].to(prediction.device)
            if "gt_scene" in sample
            else torch.tensor(-1, device=prediction.device)
            for sample in samples
        ]
        target = torch.stack(labels).long()
        values = F.cross_entropy(prediction.float(), target.clamp(min=0), reduction="none")
        return self.loss_weight * mean_of_existing(values, target >= 0)

    def write(self, prediction: Tensor, samples: Sequence[DetDataSample]) -> None:
        """Write ``pred_scene``."""
        scores = prediction.float().softmax(1)
        ranking = scores.argsort(dim=1, descending=True, stable=True)
        for sample, each, order in zip(samples, scores, ranking):
            sample.pred_scene = LabelData(scores=each, ranking=order)
